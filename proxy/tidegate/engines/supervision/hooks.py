"""`Hooks`: runs the commands of `engines.NAME.hooks` before and after the load of an engine."""

import asyncio
import shutil

from tidegate.config.command_line import CommandLine, split
from tidegate.config.hooks import HooksConfig
from tidegate.engines.base import Command, EngineError, PermanentEngineError
from tidegate.engines.process.process import EngineProcess
from tidegate.telemetry.logs import Log

_GRACE_S = 2.0


class Hooks:
    """Runs the hooks of one engine; owns their processes.

    A hook runs without a shell, in a session of its own, with the engine's name in `TIDEGATE_ENGINE`. When it has
    ended, or `timeout_s` is over, every process that is left in its session is killed.

    Args:
        engine: the engine's name.
        log: receives failures of `after_load`.
    """

    def __init__(self, engine: str, log: Log) -> None:
        self._engine = engine
        self._log = log
        self._after: asyncio.Task[None] | None = None

    async def before_load(self, hooks: HooksConfig) -> None:
        """Run the hook `before_load` to its end.

        Raises:
            EngineError: the hook failed, or took too long; the message says which hook, and how it ended.
        """
        if hooks.before_load is not None:
            await self._run("before_load", hooks.before_load, hooks.timeout_s)

    def after_load(self, hooks: HooksConfig) -> None:
        """Start the hook `after_load`; returns at once. A failure is logged, and changes nothing for the engine."""
        if hooks.after_load is not None:
            self._after = asyncio.create_task(
                self._run_logged("after_load", hooks.after_load, hooks.timeout_s), name=f"hook of {self._engine}"
            )

    async def end(self) -> None:
        """End a hook that still runs; raises only the cancellation of the calling task."""
        task, self._after = self._after, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run_logged(self, name: str, command: CommandLine, timeout_s: float) -> None:
        try:
            await self._run(name, command, timeout_s)
        except EngineError as error:
            self._log.warning("hook failed", engine=self._engine, reason=str(error))

    async def _run(self, name: str, command: CommandLine, timeout_s: float) -> None:
        if (reason := missing_program(name, command)) is not None:
            raise PermanentEngineError(reason)
        process = EngineProcess(lambda _line: None, self._engine)
        try:
            async with asyncio.timeout(timeout_s):
                await process.start(Command(split(command), {"TIDEGATE_ENGINE": self._engine}))
                status = await process.wait()
                await process.read_rest()
        except TimeoutError:
            raise EngineError(f"hooks.{name} did not end within {timeout_s:g} s (hooks.timeout_s)") from None
        except OSError as error:
            raise EngineError(f"hooks.{name} cannot be started: {error.strerror}") from error
        finally:
            await process.end(_GRACE_S)
        if status:
            raise EngineError(f"hooks.{name} ended with status {status}", process.lines.last[-1:])


def refusal(hooks: HooksConfig) -> str | None:
    """Why the hooks cannot run on this machine; None: their programs exist."""
    commands = {"before_load": hooks.before_load, "after_load": hooks.after_load}
    reasons = [missing_program(name, command) for name, command in commands.items() if command is not None]
    return next(filter(None, reasons), None)


def missing_program(name: str, command: CommandLine) -> str | None:
    """The refusal of a hook whose program is not on this machine; None: the program exists."""
    program = split(command)[0]
    return None if shutil.which(program) else f"hooks.{name}: there is no program {program} on this machine"
