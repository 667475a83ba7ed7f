"""`Target`: one place where a model is to be had."""

from msgspec import Struct, structs

from tidegate.config.cards import UNKNOWN, Card, Price

_TOKENS = 1_000_000


class Target(Struct, frozen=True):
    """An upstream (or engine) by name, what the model is called there, and what is known of it.

    Attributes:
        is_local: an engine of ours, or one that runs on our machines; only such ones may see `local_only` requests.
        weight: its share under `weighted`, beside those of the model's other targets.
        quality: what the operator says of its answers, 0 to 1; None: nothing.
        group: the name in the config of the engine of which this is a replica; empty: it is none.
        name: `upstream/model`, for people.
        shared_name: one name for all replicas of an engine, `group/model`; else as `name`.

    The names and the prices (as floats, of a million tokens) are kept, as every plan asks for them.
    """

    upstream: str
    model: str
    card: Card = UNKNOWN
    is_local: bool = False
    weight: float = 1.0
    quality: float | None = None
    group: str = ""
    name: str = ""
    shared_name: str = ""
    _usd_per_mtok: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        structs.force_setattr(self, "name", f"{self.upstream}/{self.model}")
        structs.force_setattr(self, "shared_name", f"{self.group}/{self.model}" if self.group else self.name)
        structs.force_setattr(self, "_usd_per_mtok", (0.0, 0.0) if self.is_local else _usd_per_mtok(self.card.price))

    def price_usd(self, prompt_tokens: int, answer_tokens: int) -> float | None:
        """What so many cost there, in US dollars: 0 at engines of ours; None where that is not known."""
        prices = self._usd_per_mtok
        # divided last: a request that costs just what the model allows must not be over it by a rounding
        return None if prices is None else (prompt_tokens * prices[0] + answer_tokens * prices[1]) / _TOKENS


def _usd_per_mtok(price: Price | None) -> tuple[float, float] | None:
    """Of the prompt, and of the answer."""
    return None if price is None else (float(price.input_usd_per_mtok), float(price.output_usd_per_mtok))
