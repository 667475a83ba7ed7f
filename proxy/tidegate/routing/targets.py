"""`Target`: an upstream or engine, and the name that the model has there."""

from msgspec import Struct, structs

from tidegate.config.cards import UNKNOWN, Card, Price

_TOKENS = 1_000_000


class Target(Struct, frozen=True):
    """An upstream (or engine) by name, the model's name there, and what is known of it.

    Attributes:
        is_local: an engine that Tidegate starts, or one on the operator's machines; only these may get `local_only`
            requests.
        weight: its share under `weighted`, relative to the model's other targets.
        quality: the operator's rating of its answers, 0 to 1; None if there is none.
        group: the config's name of the engine of which this is a replica; empty if it is no replica.
        name: `upstream/model`, for people.
        shared_name: one name for all replicas of an engine, `group/model`; for other targets, `name`.

    The names and the prices (as floats, per million tokens) are stored, because every plan reads them.
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
        """The price of so many tokens there, in US dollars: 0 at local engines; None if it is unknown."""
        prices = self._usd_per_mtok
        # divided last: a request that costs exactly the model's maximum must not exceed it by rounding
        return None if prices is None else (prompt_tokens * prices[0] + answer_tokens * prices[1]) / _TOKENS


def _usd_per_mtok(price: Price | None) -> tuple[float, float] | None:
    """The prices of the prompt and of the answer, in US dollars per million tokens."""
    return None if price is None else (float(price.input_usd_per_mtok), float(price.output_usd_per_mtok))
