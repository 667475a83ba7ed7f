"""A fake engine: a real child process that behaves as it is told. Run as `engine.py MODE SOCKET`."""

import signal
import socket
import sys

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class FakeKind:
    """Starts this file in the modes given, one for each start, the last one again and again."""

    dialect = "generic"
    health_path = "/health"
    always_streams = False

    def __init__(self, *modes: str, start_timeout_s: float = 30) -> None:
        self.start_timeout_s = start_timeout_s
        self.starts = 0
        self._modes = list(modes)

    def command(self, socket_path: str) -> list[str]:
        self.starts += 1
        mode = self._modes.pop(0) if len(self._modes) > 1 else self._modes[0]
        return [sys.executable, __file__, mode, socket_path]

    def model_bytes(self) -> int:
        return 0


def main(mode: str, path: str) -> None:
    if mode == "broken":
        print("loading", flush=True)
        print("0.0 E srv: cannot open the tensor file", flush=True)
        sys.exit(3)
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "silent":
        signal.pause()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        while True:
            connection, _ = server.accept()
            connection.recv(65536)
            connection.sendall(_ANSWER)
            connection.close()
            if mode == "dies":
                print("out of memory", flush=True)
                sys.exit(9)


if __name__ == "__main__":
    main(*sys.argv[1:])
