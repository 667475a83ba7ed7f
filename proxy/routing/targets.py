"""`Target`: one place where a model is to be had."""

from msgspec import Struct, structs

from proxy.config.cards import UNKNOWN, Card


class Target(Struct, frozen=True):
    """An upstream (or engine) by name, what the model is called there, and what is known of it.

    Attributes:
        is_local: an engine of ours, or one that runs on our machines; only such ones may see `local_only` requests.
        weight: its share under `weighted`, beside those of the model's other targets.
        quality: what the operator says of its answers, 0 to 1; None: nothing.
        name: `upstream/model`, for people; kept, as every plan asks for it.
    """

    upstream: str
    model: str
    card: Card = UNKNOWN
    is_local: bool = False
    weight: float = 1.0
    quality: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        structs.force_setattr(self, "name", f"{self.upstream}/{self.model}")
