"""Turns a host's error answer of any shape into a `ProxyError` (contract R-ERR and B.18)."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tidegate.dialects import retry_after
from tidegate.errors import (
    EngineDied,
    ProxyError,
    UpstreamError,
    UpstreamFailed,
    UpstreamLacksModel,
    UpstreamLacksOperation,
    UpstreamRateLimited,
    UpstreamRefusedUs,
    UpstreamRejected,
    UpstreamTimeout,
)
from tidegate.protocol.request import Endpoint

_MAX_BODY = 1024 * 1024  # bytes; a longer body is not read for a message
_MAX_MESSAGE = 2048
_MAX_SHORT_TEXT = 128
_CODES = ("code", "status", "http_status_code")
_CREDENTIAL_CODES = frozenset({"invalid_api_key", "authentication_error", "permission_error", "insufficient_quota"})
_OVERLOAD_RETRY_S = 1.0
_LOADING_RETRY_S = 5.0
_QUOTA_RETRY_S = 60.0
_TIMEOUTS = frozenset({408, 504, 522, 524})
_OVERLOADED = frozenset({498, 503, 529})  # Groq sends 498
_UNSERVED_STATUSES = frozenset({400, 404, 405, 501})
_CALLERS_FAULT = frozenset({400, 405, 411, 413, 415, 422, 501})  # statuses that the request itself has caused
# The HTTP statuses for MiniMax's codes in `base_resp`
_MINIMAX_STATUSES = {
    "1001": 504,
    "1002": 429,
    "1004": 401,
    "1008": 402,
    **dict.fromkeys(("1026", "1027", "1039", "2013"), 400),
    "2049": 401,
}
_CONTEXT_TOO_LONG = re.compile(
    r"exceed_context_size|context_length_exceeded|(maximum|model's) context length|context size|context window"
    r"|prompt is too long|input is too long"
    r"|`inputs` (tokens \+|must have less than)",  # TGI
    re.IGNORECASE,
)
# Messages about a fault in the request, of servers that answer every error with 500.
_CALLERS_FAULT_MESSAGE = re.compile(
    r"\d+ validation errors?:(?!\s+\{.*?'loc': \('response')"
    r"|(image|audio|video) input is not supported|Failed to parse tools"
)
# Words in the errors of engines that refer to their internals, which are of no use to callers
_INTERNALS = re.compile(
    r"EngineCore|EngineDead|Engine core|stack ?trace|Traceback \(most recent|cannot schedule new futures", re.IGNORECASE
)
# vLLM's answer to every request after its core has ended
_ENGINE_DEAD = re.compile(r"EngineCore encountered an issue|EngineDead")
_MAX_ORIGINAL = 300
# Messages of engines that do not serve an endpoint. `_NO_PATH`: FastAPI (vLLM, SGLang) and llama.cpp do not have the
# path; `_OTHER_TASK`: vLLM and llama.cpp serve a model for another task.
_NO_PATH = frozenset({"Not Found", "File Not Found"})
_OTHER_TASK = re.compile(r"(model|server) does not support (the )?(chat )?(completions|embeddings)\b", re.IGNORECASE)
# vLLM's message if it was started without a tool-call parser (`renderers/online_renderer.py`)
_NO_TOOLS = re.compile(r"requires (--enable-auto-tool-choice and )?--tool-call-parser to be set")
_NOT_SERVED_MESSAGES: Mapping[Endpoint, str] = {
    "chat": "This model does not serve chat completions; use another model or endpoint.",
    "completions": "This model does not serve completions; use another model or endpoint.",
    "embeddings": "This model does not serve embeddings; use an embedding model.",
}
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # without white space and ESC, which begins colour codes
# Parts of llama.cpp's messages that advise the operator; a caller cannot follow them
_ADVICE = re.compile(r" Start it with `--[^`]*`|, try increasing it")
# FastAPI's validation errors: their number, then one Python dict a line, or a sentence (contract 76b)
_VALIDATION_ERRORS = re.compile(r"\d+ validation errors?:\s+(?P<first>.+)")
_VALIDATION_ERROR = re.compile(r"(?:'loc': (?P<place>.+?), )?'msg': (?P<quote>['\"])(?P<words>(?:(?!(?P=quote)).)+)")
_FIELD_PATH = re.compile(r"['(]*(?:body|query)\b(?P<steps>.*)", re.DOTALL)
_STEP = re.compile(r"[^\s.,'()]+")
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]*")
_HOST_TYPES = frozenset({"str", "int", "float", "bool", "dict"})
_INPUTS = frozenset({"messages", "prompt", "input"})


def parse_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    received_s: float | None = None,
    engine_endpoint: Endpoint | None = None,
) -> ProxyError:
    """Return the error for an HTTP answer with a status that is not 2xx.

    Args:
        status: the answer's status.
        headers: the answer's headers by name in lower case.
        body: the body, or the part of it that was read.
        received_s: the time of receipt in seconds since the epoch. Dates are compared with it if there is no `Date`
            header.
        engine_endpoint: the requested endpoint, if the answer is from an engine; None: it is from a hosted upstream.
    """
    details = _read_details(body)
    if engine_endpoint is not None and status in _UNSERVED_STATUSES and details.lacks_operation:
        return UpstreamLacksOperation(_NOT_SERVED_MESSAGES[engine_endpoint], param="model")
    if status == 400 and details.lacks_tools:
        failure = UpstreamLacksOperation(
            "Unsupported parameter: 'tools' is not supported with this model.",
            param="tools",
            code="unsupported_parameter",
        )
        failure.original = details.message or ""
        return failure
    if status == 403 and details.is_moderated:
        message: str = details.message or "The upstream's moderation refused the request."
        return UpstreamRejected(message, code="content_policy_violation", is_quoted=True)
    if status in {401, 402, 403}:
        return _credentials_refused(status)
    if {details.code, details.type} & _CREDENTIAL_CODES:
        return _credentials_refused(402 if "insufficient_quota" in {details.code, details.type} else 401)
    error = _error_for_status(status, details, headers, received_s)
    if details.is_internal and isinstance(error, UpstreamError) and not isinstance(error, UpstreamRejected):
        if details.is_dead and type(error) is UpstreamFailed:
            error = EngineDied(error.message)
        _hide_internals(error)
    return error


def parse_embedded(body: bytes) -> ProxyError:
    """Return the error for an error object in a 200 answer; its `code` or `status` is used if it is an HTTP status."""
    details = _read_details(body)
    kind = (details.type or "").lower().replace(" ", "").replace("_", "")
    if details.code is not None and re.fullmatch(r"[45]\d\d", details.code):
        return parse_error(int(details.code), {}, body)
    is_callers = "invalidrequest" in kind or "badrequest" in kind or details.is_too_long
    return parse_error(400 if is_callers else 500, {}, body)


def _hide_internals(error: UpstreamError) -> None:
    """Replace an engine's message about its internals by a general one; keep its first line for the log."""
    error.original = error.message[:_MAX_ORIGINAL].partition("\n")[0]
    error.message = "The upstream failed while it worked on the request."
    error.args = (error.message,)
    error.is_quoted = False


def _credentials_refused(status: int) -> ProxyError:
    """Return the error for refused credentials. The host's message is left out, as it may contain the API key."""
    if status == 402:
        return UpstreamRefusedUs(
            "The upstream's quota for the configured account is used up.",
            status=503,
            code="upstream_quota",
            retry_after_s=_QUOTA_RETRY_S,
        )
    return UpstreamRefusedUs("The upstream does not accept the configured credentials.")


def _error_for_status(
    status: int, details: "_ErrorDetails", headers: Mapping[str, str], received_s: float | None
) -> ProxyError:
    is_quoted = bool(details.message)
    message: str = details.message or f"The upstream answered with status {status}."
    if status in _CALLERS_FAULT or (status == 500 and details.is_callers_fault):
        return _rejected(status, details, message)
    if status == 404:
        return UpstreamLacksModel(message, param="model", is_quoted=is_quoted)
    if status == 429:
        pause_s = retry_after.retry_after_s(headers, received_s) or retry_after.reset_s(headers, received_s)
        return _rate_limited(details, message, pause_s)
    if status in _TIMEOUTS:
        return UpstreamTimeout(message, is_quoted=is_quoted)
    if status in _OVERLOADED:
        # llama.cpp sends the type `unavailable_error` while it loads a model (row 95)
        stated_s = retry_after.retry_after_s(headers, received_s)
        wait_s = _LOADING_RETRY_S if details.type == "unavailable_error" else _OVERLOAD_RETRY_S
        failed = UpstreamFailed(message, status=503, retry_after_s=stated_s or wait_s, is_quoted=is_quoted)
        failed.is_stated = stated_s is not None
        return failed
    return UpstreamFailed(message, is_quoted=is_quoted)


def _rate_limited(details: "_ErrorDetails", message: str, pause_s: float | None) -> UpstreamRateLimited:
    return UpstreamRateLimited(
        message,
        code=details.slug,
        retry_after_s=pause_s or _OVERLOAD_RETRY_S,
        is_quoted=bool(details.message),
        is_stated=pause_s is not None,
    )


class _ErrorDetails:
    """The details of an error that were found in a body; None or false for those that it does not contain."""

    __slots__ = (
        "code",
        "is_callers_fault",
        "is_dead",
        "is_internal",
        "is_moderated",
        "is_too_long",
        "lacks_operation",
        "lacks_tools",
        "message",
        "param",
        "type",
    )

    def __init__(self, message: str | None, source: Mapping[str, Any]) -> None:
        text = _ADVICE.sub("", _without_surrogates(message or "")[:_MAX_MESSAGE])
        self.message, place = _first_validation_error(text)
        self.is_callers_fault = _CALLERS_FAULT_MESSAGE.match(text) is not None
        self.is_internal = _INTERNALS.search(text) is not None
        self.is_dead = _ENGINE_DEAD.search(text) is not None
        self.lacks_tools = _NO_TOOLS.search(text) is not None
        self.lacks_operation = text in _NO_PATH or _OTHER_TASK.search(text) is not None
        self.type = _short_text(source.get("type"))
        self.param = _openai_path(_short_text(source.get("param")) or _short_text(place))
        code = next((code for name in _CODES if (code := _short_text(source.get(name))) is not None), None)
        self.code = code.lower() if code and code.isupper() else code
        self.is_too_long = _CONTEXT_TOO_LONG.search(f"{self.type} {self.code} {self.message}") is not None
        metadata = source.get("metadata")
        # OpenRouter's 403 if the moderation of a model's provider refuses the input (row 177)
        self.is_moderated = isinstance(metadata, dict) and bool(metadata.keys() & {"reasons", "flagged_input"})

    @property
    def slug(self) -> str | None:
        """The code if it is one in OpenAI's form; vLLM and llama.cpp send numbers and HTTP phrases, which are not."""
        return self.code if self.code and re.fullmatch(r"[a-z][a-z0-9_]*", self.code) else None


def _read_details(body: bytes) -> _ErrorDetails:
    if len(body) > _MAX_BODY:
        return _ErrorDetails(None, {})
    text = body.decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        # an HTML page of a load balancer and binary data do not help a caller, so they are left out
        return _ErrorDetails(None if text.startswith("<") or _is_binary(text) else text, {})
    if isinstance(value, list):
        value = value[0] if value else {}
    if not isinstance(value, dict):
        return _ErrorDetails(value if isinstance(value, str) else None, {})
    inner = value.get("error") or _error_of_answer(value)
    base = value.get("base_resp")
    if isinstance(base, dict) and not inner:
        status = _MINIMAX_STATUSES.get(_short_text(base.get("status_code")) or "", 500)
        return _ErrorDetails(_message({"message": base.get("status_msg")}), {"code": status})
    if isinstance(inner, dict):
        return _ErrorDetails(_message(inner) or _message(value), inner)
    return _ErrorDetails((inner if isinstance(inner, str) else None) or _message(value), value)


def _error_of_answer(answer: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON of any shape
    """Return the error in a 400 whose body is a completion (AI Foundry); None if there is none.

    It is an error object of the content filter, or is made here if the filter or the finish reason shows a refusal.
    """
    found = [each for name in ("choices", "prompt_filter_results") for each in _objects(answer.get(name))]
    filters = [given for each in found if isinstance(given := each.get("content_filter_results"), dict)]
    if details := next((error for each in (*found, *filters) if (error := each.get("error"))), None):
        return details
    categories = [category for each in filters for category in each.values() if isinstance(category, dict)]
    is_filtered = any(each.get("finish_reason") == "content_filter" for each in found)
    if not is_filtered and not any(category.get("filtered") is True for category in categories):
        return None
    return {"code": "content_filter", "message": "The upstream's content filter has stopped the answer."}


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _is_binary(text: str) -> bool:
    """Return whether the decoded text was binary data, such as a compressed body."""
    return _CONTROL.search(text) is not None or text.count("\ufffd") > max(4, len(text) // 8)


def _message(source: Mapping[str, Any]) -> str | None:
    for name in ("message", "detail", "error", "errors", "text", "msg"):
        value = source.get(name)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = value[0].get("msg") or value[0].get("message")
        if isinstance(value, str) and value:
            return value
    return None


def _first_validation_error(message: str) -> tuple[str, str | None]:
    """Return the first validation error of a message, whose rest may quote the prompt, and the path of its field.

    A message that is not a list of validation errors is returned whole, with None for the path.
    """
    if (errors := _VALIDATION_ERRORS.match(message)) is None:
        return message, None
    first = _VALIDATION_ERROR.search(errors["first"])
    return (errors["first"], None) if first is None else (first["words"], first["place"])


def _openai_path(place: str | None) -> str | None:
    """Return the path of a field in OpenAI's spelling, such as `messages[0]`.

    The host's path is like `body.messages.0.Message.str`, or the tuple of these steps. The result ends before the names
    of the host's own types.
    """
    if place is None or (match := _FIELD_PATH.fullmatch(place)) is None:
        return place
    field = ""
    for step in _STEP.findall(match["steps"]):
        if step.isdecimal() and field:
            field += f"[{step}]"
        elif _FIELD_NAME.fullmatch(step) and step not in _HOST_TYPES:
            field += f".{step}" if field else step
        else:
            break
    return field or None


def _short_text(value: object) -> str | None:
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        return None
    return _without_surrogates(str(value))[:_MAX_SHORT_TEXT]


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates: `json` accepts them, but they cannot be encoded into an answer."""
    return text.encode("utf-8", "replace").decode()


def _rejected(status: int, details: _ErrorDetails, message: str) -> UpstreamError:
    if details.code == "model_not_found":  # llama-cpp-python's 400 (row 107)
        return UpstreamLacksModel(message, param="model", is_quoted=True)
    if status == 413 or details.is_too_long:
        param = details.param if details.param in _INPUTS else "messages"
        return UpstreamRejected(message, param=param, code="context_length_exceeded", is_quoted=True)
    return UpstreamRejected(message, param=details.param, code=details.slug, is_quoted=True)
