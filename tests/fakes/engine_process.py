"""A fake engine: a real child process with the routes and the failures of vLLM (reference `vllm.md`, section 4).

It is run as `engine_process.py HABITS SOCKET`, with the habits joined by commas, or in place of vLLM (see
`vllm_engine.py`). If `FAKE_CONTROL` has the path of a Unix socket, it reports events to the test there and receives
orders. It imports only the standard library. Like an engine it works in steps: each step gives one token to every
running request; the other requests queue.

The habits:

- adapters: it has the routes of LoRA adapters.
- broken: it cannot load, and ends with status 3.
- dies: it ends with status 9 after its first answer.
- dies_awake: it ends when it is woken.
- exits0: it ends with status 0 after its first answer.
- floods: it writes output without end.
- hangs: its health is good, but it makes no step.
- holds: it makes only as many steps as the test orders.
- ill: its health is 503 after its metrics were read twice.
- leaves_child: its core is a child process that ignores SIGTERM. When the core dies, the engine sends an error to its
  callers and ends with status 0.
- lingers: it does not end when its core has died: its health is 503, and requests fail.
- shows_progress: its output shows the progress of the start.
- silent: it never answers.
- sleeps: it has /sleep and /wake_up.
- slow: it makes a step only at every fourth read of its metrics.
- stubborn: it ignores SIGTERM.
- waits: it listens only when the test orders it.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time

_CORE_COMMAND = ("sh", "-c", 'trap "" TERM; exec sleep 1000000')
_END_DELAY_S = 0.1
_ERROR = {"type": "InternalServerError", "param": None, "code": 500}
_DEAD = {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause."} | _ERROR
_DRAINING = {"message": "cannot schedule new futures after shutdown"} | _ERROR
_SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_CHUNK = {"id": "chatcmpl-a14ca71cf14d421b", "object": "chat.completion.chunk", "created": 1795458906}


class Request:
    """A request that generates.

    Attributes:
        limit: how many tokens the answer has.
        tokens_given: how many tokens the request has got.
        tokens: the number of each token that it gets; None: the core is dead.
    """

    def __init__(self, number: int, fields: dict) -> None:
        self.number = number
        self.fields = fields
        self.limit = fields.get("max_tokens") or 6
        self.tokens_given = 0
        self.tokens: asyncio.Queue = asyncio.Queue()


class Core:
    """Makes the steps; `left` is how many steps it may make until the test allows more."""

    def __init__(self, limit: int, control: "Control", *, left: float) -> None:
        self.limit = limit
        self.control = control
        self.left = left
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self.steps = 0
        self.is_asleep = False
        self.changed = asyncio.Event()

    def add(self, request: Request) -> None:
        self.waiting.append(request)
        self._fill()

    def remove(self, request: Request) -> None:
        for requests in (self.running, self.waiting):
            if request in requests:
                requests.remove(request)
        self._fill()

    def phase(self, request: Request) -> str:
        return "queued" if request in self.waiting else "decoding" if request.tokens_given else "prefill"

    async def run(self) -> None:
        while True:
            while not self.running or self.is_asleep or self.left < 1:
                self.changed.clear()
                await self.changed.wait()
            self.left -= 1
            self.step()
            await asyncio.sleep(0)

    def step(self) -> None:
        self.steps += 1
        for request in list(self.running):
            request.tokens_given += 1
            request.tokens.put_nowait(request.tokens_given)
            if request.tokens_given == request.limit:
                self.remove(request)
        self.control.tell("stepped")

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self.limit:
            self.running.append(self.waiting.pop(0))
        self.changed.set()


class Control:
    """The connection to the test, if there is one: sends events as JSON lines, and receives orders."""

    def __init__(self, path: str | None) -> None:
        self.line = None if path is None else socket.socket(socket.AF_UNIX)
        self.orders = None
        if self.line is not None:
            self.line.connect(path)
            self.orders = self.line.makefile("r", encoding="utf-8")

    def tell(self, what: str, **fields) -> None:
        if self.line is not None:
            self.line.sendall(json.dumps({"what": what, "at": time.perf_counter()} | fields).encode() + b"\n")

    def next_order(self) -> dict:
        assert self.orders is not None
        return json.loads(self.orders.readline())

    def follow(self, loop: asyncio.AbstractEventLoop, engine: "FakeEngine") -> None:
        """Carry out every order that the test sends from now on."""

        def read() -> None:
            for line in self.orders or ():
                loop.call_soon_threadsafe(engine.obey, json.loads(line))

        threading.Thread(target=read, daemon=True).start()


class FakeEngine:
    """The server behind the socket.

    Args:
        habits: see the module.
        flags: vLLM's flags, by name; a missing flag has its default.
        control: the connection to the test.
    """

    def __init__(self, habits: set[str], flags: dict, control: Control) -> None:
        self.habits = habits
        self.flags = flags
        self.control = control
        is_still = bool(habits & {"hangs", "slow", "holds"})
        self.core = Core(int(flags.get("max-num-seqs", 256)), control, left=0 if is_still else float("inf"))
        self.adapters: dict[str, str] = {}
        self.requests = self.looks = 0
        self.is_draining = self.is_dead = False
        self.has_weights = True
        self.generating: set[Request] = set()
        self.emptied = asyncio.Event()
        self.may_listen = asyncio.Event()
        if "waits" not in habits:
            self.may_listen.set()
        self.server = socket.socket(socket.AF_UNIX)
        self.accepting: asyncio.Task | None = None
        self.connections: set[asyncio.Task] = set()

    async def serve(self, path: str) -> None:
        self.server.setblocking(False)  # noqa: FBT003 - the signature of the socket module
        self.server.bind(path)  # like vLLM, which removes no old socket
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(self.core.run())]
        if self.control.line is not None:
            self.control.follow(loop, self)
        if "stubborn" not in self.habits:
            loop.add_signal_handler(signal.SIGTERM, lambda: tasks.append(asyncio.create_task(self.stop())))
        if "leaves_child" in self.habits:
            core = await asyncio.create_subprocess_exec(*_CORE_COMMAND)
            print(f"child {core.pid}", flush=True)
            self.control.tell("core", pid=core.pid)
            tasks.append(asyncio.create_task(self.watch(core)))
        await self.may_listen.wait()
        self.server.listen(2048)
        self.control.tell("listening")
        self.accepting = asyncio.create_task(self.accept())
        await asyncio.Event().wait()

    async def accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self.server)
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            self.connections.add(asyncio.create_task(self.serve_connection(reader, writer)))

    def obey(self, order: dict) -> None:
        """Carry out an order of the test: `do` is the name of a method below without underscore, the rest arguments."""
        getattr(self, "_" + order.pop("do"))(**order)

    def _listen(self) -> None:
        self.may_listen.set()

    def _say(self, line: str) -> None:
        print(line, flush=True)

    def _steps(self, number: int | None) -> None:
        self.core.left = float("inf") if number is None else self.core.left + number
        self.core.changed.set()

    def _deaf(self) -> None:
        """Accept no connections; the backlog of the socket is soon full."""
        assert self.accepting is not None
        self.accepting.cancel()
        self.server.listen(0)
        self.control.tell("deaf")

    def _hear(self) -> None:
        self.server.listen(2048)
        self.accepting = asyncio.create_task(self.accept())

    def _hang_up(self) -> None:
        for connection in self.connections:
            connection.cancel()

    def _quit(self, status: int) -> None:
        """Close the socket, and end a moment later, as vLLM does."""
        self.server.close()
        self._hang_up()
        asyncio.get_running_loop().call_later(_END_DELAY_S * 3, os._exit, status)

    def _close(self) -> None:
        """Refuse every connection, but keep running."""
        self.server.close()
        self._hang_up()

    def _exit(self, status: int) -> None:
        os._exit(status)

    # --- ends -----------------------------------------------------------------------------------------------------

    async def watch(self, core: asyncio.subprocess.Process) -> None:
        """Wait for the end of the core; then send an error to every caller, and end with status 0."""
        await core.wait()
        self.is_dead = True
        for request in self.generating:
            request.tokens.put_nowait(None)
        if "lingers" not in self.habits:
            await asyncio.sleep(_END_DELAY_S)
            os._exit(0)

    async def stop(self) -> None:
        """Handle SIGTERM: refuse new requests, and end after the running ones or at the shutdown timeout.

        With a timeout of 0 no step is made any more, so callers get no further token.
        """
        self.is_draining = True
        self.control.tell("draining")
        timeout_s = float(self.flags.get("shutdown-timeout", 0))
        if not timeout_s:
            self.core.is_asleep = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s or None):
                while self.generating:
                    self.emptied.clear()
                    await self.emptied.wait()
        os._exit(0)

    # --- HTTP -----------------------------------------------------------------------------------------------------

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                key = os.environ["VLLM_API_KEY"]
                if path.startswith("/v1/") and f"Bearer {key}" not in head:
                    _send(writer, 401, {"error": "Unauthorized"})
                else:
                    await self._unless_left(reader, self.answer(method, path, body, writer))
                await writer.drain()
                self._end_if_habit()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _unless_left(self, reader: asyncio.StreamReader, answer) -> None:
        """Run `answer`, and cancel it if the caller disconnects, which shows as the end of its input."""
        answer_task, read_task = asyncio.create_task(answer), asyncio.create_task(reader.read(1))
        await asyncio.wait((answer_task, read_task), return_when=asyncio.FIRST_COMPLETED)
        for task in (answer_task, read_task):
            task.cancel()
        await asyncio.gather(answer_task, read_task, return_exceptions=True)

    def _end_if_habit(self) -> None:
        if "dies" in self.habits:
            print("out of memory", flush=True)
            os._exit(9)
        if "exits0" in self.habits:
            os._exit(0)

    async def answer(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        fields = json.loads(body or b"{}")
        if path.endswith("/completions"):
            await self.generate(fields, writer, is_chat="/chat/" in path)
        elif path == "/health":
            is_ill = self.is_dead or ("ill" in self.habits and self.looks >= 2)
            _send(writer, 503 if is_ill else 200, {})
        elif path == "/metrics":
            _send(writer, 200, self._metrics())
        elif path == "/v1/models":
            data = [{"id": name, "object": "model"} for name in self._names()]
            _send(writer, 200, {"object": "list", "data": data})
        elif path.startswith(("/sleep", "/wake_up", "/collective_rpc")) and "sleeps" in self.habits:
            self._change_sleep(path, fields)
            _send(writer, 200, {})
        elif path in {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"} and "adapters" in self.habits:
            _send(writer, *self._change_adapters(path, fields))
        else:
            _send(writer, 404, {"detail": "Not Found"})

    def _names(self) -> list[str]:
        return [self.flags.get("served-model-name", "e"), *self.adapters]

    def _change_sleep(self, path: str, fields: dict) -> None:
        """Sleep, reload or wake; at level 2 the weights are lost, and tokens are "!" until they are reloaded."""
        self.control.tell("told", path=path)
        if path.startswith("/sleep"):
            self.core.is_asleep = True
            self.has_weights = self.has_weights and "level=2" not in path
        elif fields.get("method") == "reload_weights":
            self.has_weights = True
        elif "tags=weights" not in path:
            if "dies_awake" in self.habits:
                os._exit(1)
            self.core.is_asleep = False
            self.core.changed.set()

    def _metrics(self) -> str:
        self.looks += 1
        self.control.tell("looked")
        core = self.core
        if "slow" in self.habits and self.looks % 4 == 0:
            core.steps += 1
        running = 1 if self.habits & {"hangs", "slow"} else len(core.running)
        return (
            f'vllm:iteration_tokens_total_count{{engine="0"}} {core.steps}\n'
            f'vllm:num_requests_running{{engine="0"}} {running}\n'
            f'vllm:num_requests_waiting{{engine="0"}} {len(core.waiting)}\n'
        )

    def _change_adapters(self, path: str, fields: dict) -> tuple[int, object]:
        name = fields["lora_name"]
        if path.startswith("/v1/un"):
            if self.adapters.pop(name, None) is not None:
                return 200, f"Success: LoRA adapter '{name}' removed successfully."
            message = f"The lora adapter '{name}' cannot be found."
            return 404, {"error": {"message": message, "type": "NotFoundError", "param": None, "code": 404}}
        if name in self.adapters:
            message = f"The lora adapter '{name}' has already been loaded."
            return 400, {"error": {"message": message, "type": "InvalidUserInput", "param": None, "code": 400}}
        self.adapters[name] = fields["lora_path"]
        self.control.tell("adapter", path=fields["lora_path"])
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    # --- generation -----------------------------------------------------------------------------------------------

    async def generate(self, fields: dict, writer: asyncio.StreamWriter, *, is_chat: bool) -> None:
        if self.is_draining or self.is_dead:
            _send(writer, 500, {"error": _DEAD if self.is_dead else _DRAINING})
            return
        if fields.get("model") not in self._names():
            message = f"The model `{fields.get('model')}` does not exist."
            error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
            _send(writer, 404, {"error": error})
            return
        self.requests += 1
        request = Request(self.requests, fields)
        self.generating.add(request)
        self.core.add(request)
        self.control.tell("came", number=request.number, model=fields.get("model"))
        phase = "decoding"
        try:
            answer = self._stream(request, writer) if fields.get("stream") else self._whole(request, writer, is_chat)
            await answer
        except asyncio.CancelledError:
            phase = self.core.phase(request)
            self.control.tell("left", number=request.number, phase=phase)
            raise
        finally:
            self.core.remove(request)
            self.generating.discard(request)
            self.emptied.set()

    async def _whole(self, request: Request, writer: asyncio.StreamWriter, is_chat) -> None:
        for _ in range(request.limit):
            if await request.tokens.get() is None:
                _send(writer, 500, {"error": _DEAD})
                return
        deltas = [self._delta(number) for number in range(1, request.limit + 1)]
        text = "".join(delta.get("content", "") for delta in deltas)
        thought = "".join(delta.get("reasoning", "") for delta in deltas) or None
        content = (
            {"message": {"role": "assistant", "content": text, "reasoning": thought}} if is_chat else {"text": text}
        )
        choice = {"index": 0, "logprobs": None, "finish_reason": self._finish(request), "stop_reason": None} | content
        kind = "chat.completion" if is_chat else "text_completion"
        _send(writer, 200, _CHUNK | {"object": kind, "choices": [choice], "usage": self._usage(request)})

    async def _stream(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Stream the answer; the HTTP head is sent at once, the role with the first token."""
        writer.write(_SSE)
        for number in range(1, request.limit + 1):
            if await request.tokens.get() is None:
                await _event(writer, {"error": _DEAD})
                break
            if number == 1:
                first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
                await _event(writer, _CHUNK | {"choices": [first | {"finish_reason": None}], "prompt_token_ids": None})
            finish = self._finish(request) if number == request.limit else None
            choice = {"index": 0, "delta": self._delta(number), "logprobs": None, "finish_reason": finish}
            await _event(writer, _CHUNK | {"choices": [choice | {"token_ids": None}]})
        else:
            if (request.fields.get("stream_options") or {}).get("include_usage"):
                await _event(writer, _CHUNK | {"choices": [], "usage": self._usage(request)})
        await _event(writer, None)
        writer.write(b"0\r\n\r\n")

    def _delta(self, number: int) -> dict:
        """Return the delta of a token: with a reasoning parser the first two are reasoning, the others content."""
        if not self.has_weights:
            return {"content": "!"}
        if "reasoning-parser" in self.flags and number <= 2:
            return {"reasoning": f"t{number} "}
        return {"content": f"w{number} "}

    @staticmethod
    def _finish(request: Request) -> str:
        return "length" if request.fields.get("max_tokens") else "stop"

    @staticmethod
    def _usage(request: Request) -> dict:
        return {"prompt_tokens": 3, "completion_tokens": request.limit, "total_tokens": 3 + request.limit}


def _send(writer: asyncio.StreamWriter, status: int, content: object) -> None:
    """Send a whole answer: a string as plain text, anything else as JSON."""
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    kind = b"text/plain" if isinstance(content, str) else b"application/json"
    head = b"HTTP/1.1 %d X\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % (status, kind, len(body)) + body)


async def _event(writer: asyncio.StreamWriter, data: dict | None) -> None:
    payload = b"[DONE]" if data is None else json.dumps(data).encode()
    event = b"data: %b\n\n" % payload
    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
    await writer.drain()


def main(habits: set[str], path: str, flags: dict | None = None, control: str | None = None) -> None:
    """Serve on the socket until SIGTERM."""
    line = Control(control)
    if line.line is not None:
        line.tell("started", pid=os.getpid(), flags=flags)
        habits |= set(line.next_order()["habits"])
    if "broken" in habits:
        print("loading 0.1", flush=True)
        print("WARNING 11-25 10:00:00 [x.py:1] Failed with an error that does not matter", flush=True)
        print("0.0 E srv: cannot open the tensor file", flush=True)
        sys.exit(3)
    if "stubborn" in habits:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "floods" in habits:
        threading.Thread(target=_flood, daemon=True).start()
    if "shows_progress" in habits:
        print("loading 0.5", flush=True)
    if "silent" in habits:
        signal.pause()
    asyncio.run(_serve(habits, path, flags or {}, line))


async def _serve(habits: set[str], path: str, flags: dict, control: Control) -> None:
    await FakeEngine(habits, flags, control).serve(path)


def _flood() -> None:
    while True:
        os.write(1, b"x" * 65536)


if __name__ == "__main__":
    main(set(sys.argv[1].split(",")), sys.argv[2], control=os.environ.get("FAKE_CONTROL"))
