"""`Target`: one place where a model is to be had."""

import msgspec

from proxy.config.cards import UNKNOWN, Card


class Target(msgspec.Struct, frozen=True):
    """An upstream (or engine) by name, what the model is called there, and what is known of it.

    Attributes:
        is_local: an engine of ours, or one that runs on our machines; only such ones may see `local_only` requests.
        weight: its share under `weighted`, beside those of the model's other targets.
        quality: what the operator says of its answers, 0 to 1; None: nothing.
    """

    upstream: str
    model: str
    card: Card = UNKNOWN
    is_local: bool = False
    weight: float = 1.0
    quality: float | None = None

    @property
    def name(self) -> str:
        """`upstream/model`, for people."""
        return f"{self.upstream}/{self.model}"
