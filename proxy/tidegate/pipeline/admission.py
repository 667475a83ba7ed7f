"""`Admission`: authenticates the caller and authorises the request. There are no quotas yet; they belong here."""

from typing import Protocol

from tidegate.auth import Credentials, KeyPrincipal
from tidegate.pipeline.context import RequestContext
from tidegate.protocol.request import ModelRequest


class CallerAuthenticator(Protocol):
    """Finds the caller by its API key (see `tidegate.auth.KeyRing`)."""

    def authenticate(self, credentials: Credentials) -> KeyPrincipal:
        """The caller that `credentials` belong to; raises `NotAuthenticated`."""


class Admission:
    """Authenticates before the body is read, and authorises after it has been parsed."""

    def __init__(self, authenticator: CallerAuthenticator) -> None:
        self._authenticator = authenticator

    def authenticate(self, credentials: Credentials, context: RequestContext) -> None:
        """Store the authenticated caller in `context`.

        Raises:
            NotAuthenticated: no key, or an unknown one.
        """
        context.principal = self._authenticator.authenticate(credentials)

    def authorise(self, request: ModelRequest, context: RequestContext) -> None:
        """Store the request's model and whether it asks for a stream.

        Nothing is refused: every known caller may use every model.
        """
        context.model = request.model
        context.is_stream = request.is_stream
