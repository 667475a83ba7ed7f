"""`Settings`: how an engine is run; `CurrentSettings`: the current kind and settings of one engine."""

from msgspec import Struct

from tidegate.config.hooks import HooksConfig
from tidegate.engines.base import EngineKind

_POLL_S = 0.05
_SCRAPE_S = 1.0


class Settings(Struct, frozen=True, kw_only=True):
    """How an engine is run; all but the last six come from the config.

    Attributes:
        starts_at_once: True: started with Tidegate; False: started for the first request.
        queue_timeout_s: how long a request waits for the engine.
        drain_timeout_s: how long running answers may continue when the engine is to stop or to sleep.
        idle_unload_s: after so long without a request the engine is put to sleep or stopped; None: never.
        hooks: the commands that run before and after a load.
        idle_canary_s: one token is requested after so long without a request, and again after each such period; 0:
            never.
        ending_s: how long an engine whose health route reports a failure may take to end by itself.
        backoff_s: the first pause before a restart; each further pause is twice as long, up to a minute, until the
            engine has been ready for `steady_s`.
        steady_s: an engine that has been ready for so long is steady: its earlier crashes do not count any more.
        max_crashes: after so many crashes without a steady time in between, Tidegate does not start the engine again.
        poll_s: the pause between two health checks of an engine that starts.
        scrape_s: the pause between two polls of a running engine.
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

    The engine's supervisor creates and changes this object (`Supervisor.reconfigure`). The supervisor's parts read it
    at each use, so a change takes effect at once.
    """

    def __init__(self, kind: EngineKind, settings: Settings) -> None:
        self.kind = kind
        self.settings = settings
