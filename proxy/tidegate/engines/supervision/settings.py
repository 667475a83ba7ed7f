"""`Settings`: how an engine is run; `CurrentSettings`: the current kind and settings of one."""

from msgspec import Struct

from tidegate.config.hooks import HooksConfig
from tidegate.engines.base import EngineKind

_POLL_S = 0.05
_SCRAPE_S = 1.0


class Settings(Struct, frozen=True, kw_only=True):
    """How an engine is run; all but the last six come from the config.

    Attributes:
        starts_at_once: with Tidegate; else when the first request asks for it.
        queue_timeout_s: how long a request waits for it.
        drain_timeout_s: how long running answers may go on when it is to stop.
        idle_unload_s: it makes room by itself after so long without a request.
        hooks: what is run around its load.
        idle_canary_s: it is asked for one token after so long without a request, and again each time; 0: never.
        ending_s: how long an engine whose health route reports a failure may take to end by itself.
        backoff_s: the first pause before a restart; each further one is twice as long, up to a minute, until the engine
            has been ready for `steady_s`.
        steady_s: see there.
        max_crashes: so many crashes without having been steady in between, and it is not started again by itself.
        poll_s: between two health checks of an engine that starts.
        scrape_s: between two looks at an engine that runs.
    """

    starts_at_once: bool = True
    queue_timeout_s: float = 30.0
    drain_timeout_s: float = 30.0
    idle_unload_s: float | None = None
    hooks: HooksConfig = HooksConfig()
    idle_canary_s: float = 0.0
    ending_s: float = 3.0
    backoff_s: float = 1.0
    steady_s: float = 60.0
    max_crashes: int = 5
    poll_s: float = _POLL_S
    scrape_s: float = _SCRAPE_S


class CurrentSettings:
    """The kind and the settings of one engine as they are now.

    The engine's supervisor makes it and changes it (`Supervisor.treat`); the supervisor's parts read it each time.
    """

    def __init__(self, kind: EngineKind, settings: Settings) -> None:
        self.kind = kind
        self.settings = settings
