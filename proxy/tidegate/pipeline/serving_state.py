"""`Landscape`: everything that a request may go to, and what is known of it."""

from collections.abc import Mapping

from msgspec import Struct

from tidegate.pipeline.upstream import Gate, Upstreams
from tidegate.reasoning_memory import Memory
from tidegate.routing.offline import Offline
from tidegate.routing.quality import Qualities
from tidegate.routing.target_registry import Board


class Landscape(Struct, frozen=True, kw_only=True):
    """Shared by all requests, probes and the administrator's questions.

    Attributes:
        gates: by upstream, who is let in; those that are not here take everybody.
        memory: of the reasoning of past turns.
    """

    upstreams: Upstreams
    gates: Mapping[str, Gate]
    board: Board
    offline: Offline
    qualities: Qualities
    memory: Memory
