"""`Dialect`, the facts about one kind of host, and the translator that reads them.

The rule ids (Q-…) are those of the contract, section B.0.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec
from msgspec import Raw, Struct

from proxy.dialects import messages
from proxy.errors import UnsupportedParameter, UpstreamLacksModel
from proxy.protocol.request import Endpoint, Fields, ModelRequest

Adjust = Callable[[Fields], None]

_encode = msgspec.json.Encoder().encode
_TRUE = Raw(b"true")
_ASKS_NOTHING = frozenset({b"false", b"0", b"0.0", b"{}", b"[]", b'""'})

# What only the engine's operator may set; a caller's would cross into other requests (contract 76o, DESIGN 8).
_INTERNAL = frozenset(
    {
        "request_id",
        "priority",
        "kv_transfer_params",
        "ec_transfer_params",
        "vllm_xargs",
        "cache_salt",
        "id_slot",
    }
)
_PATHS: Mapping[Endpoint, str] = MappingProxyType(
    {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
)


def no_adjustment(_fields: Fields) -> None:
    """Most hosts need none."""


class Dialect(Struct, frozen=True, kw_only=True):
    """The facts about one kind of host; immutable and shared.

    Attributes:
        name: as the config spells it.
        paths: where each endpoint is below the base URL; what is missing the host does not have.
        max_tokens: the one name that the host honours (Q-MAX), or None where both are fine.
        system_role: what `developer` and `system` become (Q-DEV), or None where both are known.
        joins_text: content arrays of text alone become one string (Q-TEXT).
        reasoning_history: the name under which past reasoning goes back (Q-REASON-IN), or None to leave it out.
        dropped: hints that the host rejects; left out silently (Q-DROP).
        refused: fields that change the result and that the host cannot honour: 400 when set (Q-DROP).
        asks_usage: whether the host takes `stream_options` (Q-SOPT); usage is always wanted for our own books.
        first_byte_timeout_s: how long a stream may take to begin; a hosted API answers sooner than one's own prefill.
        keepalive_s: how long an idle connection is kept; below the host's own limit (uvicorn and cpp-httplib: 5 s).
        adjust: what a table cannot say, on the fields of a chat request; may raise `UnsupportedParameter`.
    """

    name: str
    paths: Mapping[Endpoint, str] = _PATHS
    max_tokens: str | None = None
    system_role: str | None = "system"
    joins_text: bool = True
    reasoning_history: str | None = None
    dropped: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    asks_usage: bool = True
    first_byte_timeout_s: float = 600.0
    keepalive_s: float = 4.0
    adjust: Adjust = no_adjustment

    def path(self, endpoint: Endpoint) -> str:
        """Where `endpoint` is below the base URL.

        Raises:
            UpstreamLacksModel: the host does not have it, another target may.
        """
        try:
            return self.paths[endpoint]
        except KeyError:
            raise UpstreamLacksModel(f"The upstream for this model does not serve {endpoint}.") from None

    def build_request(self, request: ModelRequest, *, model: str, is_stream: bool) -> bytes:
        """The body for this host: re-encoded, so that no duplicate key of the caller's slips by our checks.

        Raises:
            UnsupportedParameter: the request needs what the host does not have.
        """
        fields = {
            name: value
            for name, value in request.fields.items()
            if name not in _INTERNAL and name not in self.dropped and bytes(value) != b"null"
        }
        for name in self.refused & fields.keys():
            if compact(fields.pop(name)) not in _ASKS_NOTHING:
                raise UnsupportedParameter(
                    f"Unsupported parameter: '{name}' is not supported with this model.", param=name
                )
        if request.endpoint == "chat":
            self._adjust_chat(fields)
        fields["model"] = Raw(_encode(model))
        if request.endpoint != "embeddings":
            self._ask_stream(fields, is_stream=is_stream)
        return _encode(fields)

    def _adjust_chat(self, fields: Fields) -> None:
        fields["messages"] = messages.adapt(
            fields["messages"],
            system_role=self.system_role,
            joins_text=self.joins_text,
            reasoning_name=self.reasoning_history,
        )
        _tidy_tools(fields)
        if self.max_tokens is not None:
            _rename_max_tokens(fields, self.max_tokens)
        self.adjust(fields)

    def _ask_stream(self, fields: Fields, *, is_stream: bool) -> None:
        fields.pop("stream_options", None)
        fields.pop("stream", None)
        if is_stream:
            fields["stream"] = _TRUE
            if self.asks_usage:
                fields["stream_options"] = Raw(b'{"include_usage":true}')


def compact(value: Raw) -> bytes:
    """The bytes of a value without white space, to be compared with short literals."""
    return bytes(value).translate(None, b" \t\r\n")


def _tidy_tools(fields: Fields) -> None:
    """Q-TOOLS and Q-STOP: empty lists mean absent, and hosts answer 400 to them."""
    if "tools" in fields and compact(fields["tools"]) == b"[]":
        del fields["tools"]
    if "tools" not in fields:
        fields.pop("tool_choice", None)
        fields.pop("parallel_tool_calls", None)
    if "stop" in fields and compact(fields["stop"]) in {b"[]", b'""'}:
        del fields["stop"]


def _rename_max_tokens(fields: Fields, name: str) -> None:
    newer, older = fields.pop("max_completion_tokens", None), fields.pop("max_tokens", None)
    limit = newer if newer is not None else older
    if limit is not None:
        fields[name] = limit
