"""What a new config means for the engines that there are: a pure comparison.

Most of an engine's keys are flags of its process, so that it has to start anew. The rest only says how it is treated:
it goes on as it is, for a large model takes its time to load.
"""

from collections.abc import Mapping

from msgspec import Struct

from tidegate.config.engines import EngineConfig

_TREATMENT = frozenset(
    {
        "first_byte_timeout_s",
        "idle_timeout_s",
        "concurrency",
        "admission",  # the old name of concurrency
        "start",
        "start_timeout_s",
        "queue_timeout_s",
        "drain_timeout_s",
        "idle_unload_s",
        "idle_canary_s",
        "pinned",
        "stop_timeout_s",
        "gpu_share",
        "hooks",
        "api_keys",  # what somebody else's engine is shown
    }
)


class Changes(Struct, frozen=True, kw_only=True):
    """The engines by what becomes of them, each in one place; names in the order of their config.

    Attributes:
        changed: they end, and start anew.
        adjusted: they go on, and are treated otherwise.
        kept: nothing is different.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def changes(old: Mapping[str, EngineConfig], new: Mapping[str, EngineConfig]) -> Changes:
    """What is to be done so that `new` holds in place of `old`."""
    both = [name for name in new if name in old]
    changed = tuple(name for name in both if _is_another(old[name], new[name]))
    same = tuple(name for name in both if old[name] == new[name])
    return Changes(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=changed,
        adjusted=tuple(name for name in both if name not in changed and name not in same),
        kept=same,
    )


def _is_another(old: EngineConfig, new: EngineConfig) -> bool:
    """Whether what runs is not what would be started."""
    if type(old) is not type(new):
        return True
    flags = [field for field in old.__struct_fields__ if field not in _TREATMENT]
    return any(getattr(old, field) != getattr(new, field) for field in flags)
