"""`concurrency:` how many requests an upstream or engine gets at once, and how many wait for a slot, for how long."""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

from tidegate.config.server import Seconds

_Limit = Annotated[int, Meta(ge=1, le=100_000)] | Literal["adaptive"] | None
_Queue = Annotated[int, Meta(ge=0, le=100_000, description="How many requests may wait; further ones get 429.")]
_QueueTimeout = Annotated[Seconds, Meta(description="A request that has waited this long gets 429.")]

LIMIT = "Requests at once; adaptive: as many as the time to first token allows; null: no limit."
OLD_NAME = Meta(
    description="The old name of `concurrency`, with `concurrency` for its `limit`; accepted until 0.3.",
    extra_json_schema={"deprecated": True},
)


class ConcurrencyConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The concurrency limit of one upstream or engine, and the queue for its slots."""

    limit: Annotated[_Limit, Meta(description=LIMIT)] = None
    queue: _Queue = 100
    queue_timeout_s: _QueueTimeout = 10.0


class AdmissionConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of `ConcurrencyConfig` before 0.2."""

    concurrency: Annotated[_Limit, Meta(description=LIMIT)] = None
    queue: _Queue = 100
    queue_timeout_s: _QueueTimeout = 10.0

    def renamed(self) -> ConcurrencyConfig:
        """Return the same settings under their new names."""
        return ConcurrencyConfig(limit=self.concurrency, queue=self.queue, queue_timeout_s=self.queue_timeout_s)


def faults(concurrency: ConcurrencyConfig, admission: AdmissionConfig | None) -> Iterator[str]:
    """Yield what is wrong with the two keys of one upstream or engine: the path below it, the fault and the cure."""
    if admission is not None and concurrency != ConcurrencyConfig():
        yield ".admission: this is the old name of concurrency, which is there too; keep concurrency alone"
