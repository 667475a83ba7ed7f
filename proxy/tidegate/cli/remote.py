"""`Server`: a running Tidegate, for the commands that ask one."""

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
    """For a click option: a URL of a server, as it is."""
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise click.BadParameter("write it as http://HOST:PORT")
    return url


class CommandRefused(click.ClickException):
    """It could not be done; told in one line."""

    def show(self, file: Any = None) -> None:  # noqa: ANN401, ARG002 - click's signature
        click.echo(f"tidegate: {self.message}", err=True)


class Interrupted(CommandRefused):
    """Ctrl-C."""

    exit_code = 130


class Server:
    """A running Tidegate, asked for one thing after another.

    Neither redirects are followed nor proxies asked: the admin key goes to `url` alone.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url
        self._parts = urlsplit(url)
        self._headers = {"content-type": "application/json"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"

    def list(self) -> Sequence[EngineReport]:
        """Every engine; raises `CommandRefused`."""
        return self._decode(self.ask("GET", "engines"), EngineList).engines

    def report(self, name: str) -> Sequence[EngineReport]:
        """One engine, or its replicas; raises `CommandRefused`."""
        return self._reports(self.ask("GET", "engines", name))

    def tell(self, name: str, order: str) -> Sequence[EngineReport]:
        """Give an order to an engine, or to each of its replicas; raises `CommandRefused`."""
        return self._reports(self.ask("POST", "engines", name, order))

    def ask(self, method: str, *path: str) -> bytes:
        """The body of a good answer.

        Raises:
            Refused: there is none.
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
            raise CommandRefused("the key cannot stand in a header") from error
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
        cure = " Set TIDEGATE_ADMIN_KEY." if status == 401 else ""
        raise CommandRefused(message + cure)

    def _decode(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise CommandRefused(f"what answers at {self._url} is not Tidegate, or of another version") from error
