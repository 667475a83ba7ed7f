"""Which engines a new config adds, removes or changes: a comparison of two configs, without I/O.

Most keys of an engine become flags of its process, so a change of one restarts the engine. The other keys only say how
Tidegate uses the engine (`_RUNTIME_KEYS`). If only these change, the process runs on, as a large model takes minutes
to load.
"""

from collections.abc import Mapping

from msgspec import Struct

from tidegate.config.engines import EngineConfig

_RUNTIME_KEYS = frozenset(
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
        "api_keys",  # sent to an external engine
    }
)


class Changes(Struct, frozen=True, kw_only=True):
    """The names of engines by what a new config does to them.

    Each engine is in exactly one of the tuples. Each tuple is in the order of the new config; `removed` is in the order
    of the old one.

    Attributes:
        added: engines that only the new config has.
        removed: engines that only the old config has.
        changed: engines that are stopped and started with new flags.
        adjusted: engines that run on, with other settings of Tidegate.
        kept: engines whose config is equal.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def changes(old: Mapping[str, EngineConfig], new: Mapping[str, EngineConfig]) -> Changes:
    """Return what has to be done to change from the config `old` to the config `new`."""
    in_both = [name for name in new if name in old]
    changed = tuple(name for name in in_both if _needs_restart(old[name], new[name]))
    same = tuple(name for name in in_both if old[name] == new[name])
    return Changes(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=changed,
        adjusted=tuple(name for name in in_both if name not in changed and name not in same),
        kept=same,
    )


def _needs_restart(old: EngineConfig, new: EngineConfig) -> bool:
    """Return whether the running process differs from the process that the new config would start."""
    if type(old) is not type(new):
        return True
    flags = [field for field in old.__struct_fields__ if field not in _RUNTIME_KEYS]
    return any(getattr(old, field) != getattr(new, field) for field in flags)
