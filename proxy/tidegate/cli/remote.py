"""`Server`: a client of the `/admin` endpoints of a running Tidegate, for the commands that need one."""

from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

import click
import msgspec

from tidegate.operations.administration import EngineList, EngineReport
from tidegate.protocol.errors import ErrorBody

_TIMEOUT_S = 60.0

T = TypeVar("T")


def check_url(_context: click.Context, _parameter: click.Parameter, url: str) -> str:
    """A click callback that checks the URL of a server, and returns it unchanged.

    Raises:
        click.BadParameter: it is not an HTTP URL with a host.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise click.BadParameter("write it as http://HOST:PORT")
    return url


class CommandRefused(click.ClickException):
    """The command could not be carried out; the message is shown as one line."""

    def show(self, file: Any = None) -> None:  # noqa: ANN401, ARG002 - click's signature
        click.echo(f"tidegate: {self.message}", err=True)


class Interrupted(CommandRefused):
    """The command was ended by Ctrl-C."""

    exit_code = 130


class Server:
    """A running Tidegate at `url`; each request opens its own connection.

    It follows no redirects and uses no proxies, so the admin key is sent to `url` only.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url
        self._parts = urlsplit(url)
        self._headers = {"content-type": "application/json"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"

    def list(self) -> Sequence[EngineReport]:
        """The reports of all engines; raises `CommandRefused`."""
        return self._decode(self.request("GET", "engines"), EngineList).engines

    def report(self, name: str) -> Sequence[EngineReport]:
        """The report of one engine, or those of its replicas; raises `CommandRefused`."""
        return self._reports(self.request("GET", "engines", name))

    def send_order(self, name: str, order: str) -> Sequence[EngineReport]:
        """Send an order to an engine, or to each of its replicas; returns their reports. Raises `CommandRefused`."""
        return self._reports(self.request("POST", "engines", name, order))

    def request(self, method: str, *path: str) -> bytes:
        """Send a request to `/admin/{path}`, and return the body of a successful answer.

        Raises:
            CommandRefused: the server cannot be reached, or answers with an error.
        """
        connection = self._connection()
        try:
            connection.request(method, self._path(path), headers=self._headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise CommandRefused(f"{self._url} does not answer ({reason}); is it running?") from error
        except ValueError as error:
            raise CommandRefused("the key cannot be sent in a header") from error
        finally:
            connection.close()
        if response.status >= 300:
            self._refuse(response.status, body)
        return body

    def _reports(self, body: bytes) -> Sequence[EngineReport]:
        try:
            return msgspec.json.decode(body, type=EngineList).engines
        except msgspec.DecodeError:  # a single report: the engine has no replicas
            return [self._decode(body, EngineReport)]

    def _connection(self) -> HTTPConnection:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=_TIMEOUT_S)

    def _path(self, parts: Sequence[str]) -> str:
        return "/".join([self._parts.path.rstrip("/"), "admin", *(quote(part, safe="") for part in parts)])

    def _refuse(self, status: int, body: bytes) -> NoReturn:
        message = self._decode(body, ErrorBody).error.message
        hint = " Set TIDEGATE_ADMIN_KEY." if status == 401 else ""
        raise CommandRefused(message + hint)

    def _decode(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise CommandRefused(f"the server at {self._url} is not Tidegate, or of another version") from error
