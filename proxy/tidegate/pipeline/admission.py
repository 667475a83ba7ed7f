"""The opening bracket: authenticate, authorise. Reservations of quota come behind the same two calls."""

from typing import Protocol

from tidegate.auth import Credentials, KeyPrincipal
from tidegate.pipeline.context import RequestContext
from tidegate.protocol.request import ModelRequest


class Keys(Protocol):
    """Where keys are known (see `tidegate.auth.KeyRing`)."""

    def authenticate(self, credentials: Credentials) -> KeyPrincipal:
        """The caller behind `credentials`; raises `NotAuthenticated`."""


class Admission:
    """Says who may come in, before the body is read, and with what, after."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def authenticate(self, credentials: Credentials, context: RequestContext) -> None:
        """Note the caller in `context`.

        Raises:
            NotAuthenticated: nobody we know.
        """
        context.principal = self._keys.authenticate(credentials)

    def authorise(self, request: ModelRequest, context: RequestContext) -> None:
        """Note what is asked for; every known caller may ask for every model."""
        context.model = request.model
        context.is_stream = request.is_stream
