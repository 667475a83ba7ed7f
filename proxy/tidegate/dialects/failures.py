"""A host's error answer, in any shape, as one of our errors (contract R-ERR and B.18)."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tidegate.dialects import pauses
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

_MAX_BODY = 1024 * 1024  # bytes; what is longer tells nothing that could be passed on
_MAX_MESSAGE = 2048
_MAX_WORD = 128
_CODES = ("code", "status", "http_status_code")
_OUR_KEY = frozenset({"invalid_api_key", "authentication_error", "permission_error", "insufficient_quota"})
_OVERLOAD_RETRY_S = 1.0
_LOADING_RETRY_S = 5.0
_QUOTA_RETRY_S = 60.0
_TIMEOUTS = frozenset({408, 504, 522, 524})
_OVERLOADED = frozenset({498, 503, 529})  # 498 is Groq's
_LACKING = frozenset({400, 404, 405, 501})
_CALLERS_FAULT = frozenset({400, 405, 411, 413, 415, 422, 501})
# HTTP statuses for MiniMax's codes in `base_resp`
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
# What servers that know one status for everything, 500, say where the request is at fault.
_CALLERS_WORDS = re.compile(
    r"\d+ validation errors?:(?!\s+\{.*?'loc': \('response')"
    r"|(image|audio|video) input is not supported|Failed to parse tools"
)
# Internals of engines in their errors, of no use to callers
_INTERNALS = re.compile(
    r"EngineCore|EngineDead|Engine core|stack ?trace|Traceback \(most recent|cannot schedule new futures", re.IGNORECASE
)
# vLLM's answer to every request after its core has ended
_DEAD = re.compile(r"EngineCore encountered an issue|EngineDead")
_MAX_ORIGINAL = 300
# Answers of engines that do not serve an endpoint: of FastAPI (vLLM, SGLang) and llama.cpp for an unknown path, of vLLM
# and llama.cpp for a model of another task
_NO_PATH = frozenset({"Not Found", "File Not Found"})
_NOT_MADE_FOR = re.compile(r"(model|server) does not support (the )?(chat )?(completions|embeddings)\b", re.IGNORECASE)
# vLLM's answer where it was started without a tool-call parser (`renderers/online_renderer.py`)
_NO_TOOLS = re.compile(r"requires (--enable-auto-tool-choice and )?--tool-call-parser to be set")
_OPERATIONS: Mapping[Endpoint, str] = {
    "chat": "This model does not serve chat completions; use another model or endpoint.",
    "completions": "This model does not serve completions; use another model or endpoint.",
    "embeddings": "This model does not serve embeddings; use an embedding model.",
}
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # without white space and the escape of colours
# llama.cpp's advice to who started it, which is nothing that a caller can do
_ADVICE = re.compile(r" Start it with `--[^`]*`|, try increasing it")
# FastAPI's findings: a count, then one Python dict a line, or a sentence (contract 76b)
_FINDINGS = re.compile(r"\d+ validation errors?:\s+(?P<first>.+)")
_FINDING = re.compile(r"(?:'loc': (?P<place>.+?), )?'msg': (?P<quote>['\"])(?P<words>(?:(?!(?P=quote)).)+)")
_PLACE = re.compile(r"['(]*(?:body|query)\b(?P<steps>.*)", re.DOTALL)
_STEP = re.compile(r"[^\s.,'()]+")
_FIELD = re.compile(r"[a-z][a-z0-9_]*")
_TYPES = frozenset({"str", "int", "float", "bool", "dict"})
_INPUTS = frozenset({"messages", "prompt", "input"})


def parse_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    received_s: float | None = None,
    engine_endpoint: Endpoint | None = None,
) -> ProxyError:
    """The error for an HTTP answer with a status that is not 2xx.

    Args:
        status: the answer's.
        headers: the answer's, by their names in lower case.
        body: as much of it as was read.
        received_s: the time of receipt in seconds since the epoch. Dates refer to it if there is no `Date` header.
        engine_endpoint: the endpoint that an engine of ours was asked for; None: the answer is from a host elsewhere.
    """
    told = _read(body)
    if engine_endpoint is not None and status in _LACKING and told.lacks_operation:
        return UpstreamLacksOperation(_OPERATIONS[engine_endpoint], param="model")
    if status == 400 and told.lacks_tools:
        lacks = UpstreamLacksOperation(
            "Unsupported parameter: 'tools' is not supported with this model.",
            param="tools",
            code="unsupported_parameter",
        )
        lacks.original = told.message or ""
        return lacks
    if status == 403 and told.is_moderated:
        message: str = told.message or "The upstream's moderation refused the request."
        return UpstreamRejected(message, code="content_policy_violation", is_quoted=True)
    if status in {401, 402, 403}:
        return _refused_us(status)
    if {told.code, told.type} & _OUR_KEY:
        return _refused_us(402 if "insufficient_quota" in {told.code, told.type} else 401)
    error = _failed(status, told, headers, received_s)
    if told.is_internal and isinstance(error, UpstreamError) and not isinstance(error, UpstreamRejected):
        if told.is_dead and type(error) is UpstreamFailed:
            error = EngineDied(error.message)
        _reword(error)
    return error


def parse_embedded(body: bytes) -> ProxyError:
    """The error for an error object inside a 200: its `code` or `status` is the status, if it looks like one."""
    told = _read(body)
    kind = (told.type or "").lower().replace(" ", "").replace("_", "")
    if told.code is not None and re.fullmatch(r"[45]\d\d", told.code):
        return parse_error(int(told.code), {}, body)
    is_callers = "invalidrequest" in kind or "badrequest" in kind or told.is_too_long
    return parse_error(400 if is_callers else 500, {}, body)


def _reword(error: UpstreamError) -> None:
    """Replace an engine's message about its internals by ours; keep its first line for the log."""
    error.original = error.message[:_MAX_ORIGINAL].partition("\n")[0]
    error.message = "The upstream failed while it worked on the request."
    error.args = (error.message,)
    error.is_quoted = False


def _refused_us(status: int) -> ProxyError:
    """Without the host's words: they may name our key."""
    if status == 402:
        return UpstreamRefusedUs(
            "The upstream's quota for the configured account is used up.",
            status=503,
            code="upstream_quota",
            retry_after_s=_QUOTA_RETRY_S,
        )
    return UpstreamRefusedUs("The upstream does not accept the configured credentials.")


def _failed(status: int, told: "_ErrorDetails", headers: Mapping[str, str], received_s: float | None) -> ProxyError:
    is_quoted = bool(told.message)
    message: str = told.message or f"The upstream answered with status {status}."
    if status in _CALLERS_FAULT or (status == 500 and told.is_callers_fault):
        return _rejected(status, told, message)
    if status == 404:
        return UpstreamLacksModel(message, param="model", is_quoted=is_quoted)
    if status == 429:
        pause_s = pauses.retry_after_s(headers, received_s) or pauses.reset_s(headers, received_s)
        return _rate_limited(told, message, pause_s)
    if status in _TIMEOUTS:
        return UpstreamTimeout(message, is_quoted=is_quoted)
    if status in _OVERLOADED:
        # llama.cpp says so while it loads a model (row 95)
        told_s = pauses.retry_after_s(headers, received_s)
        wait_s = _LOADING_RETRY_S if told.type == "unavailable_error" else _OVERLOAD_RETRY_S
        failed = UpstreamFailed(message, status=503, retry_after_s=told_s or wait_s, is_quoted=is_quoted)
        failed.is_told = told_s is not None
        return failed
    return UpstreamFailed(message, is_quoted=is_quoted)


def _rate_limited(told: "_ErrorDetails", message: str, pause_s: float | None) -> UpstreamRateLimited:
    return UpstreamRateLimited(
        message,
        code=told.slug,
        retry_after_s=pause_s or _OVERLOAD_RETRY_S,
        is_quoted=bool(told.message),
        is_told=pause_s is not None,
    )


class _ErrorDetails:
    """What a body says about the error; empty or None where it says nothing."""

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
        text = _ADVICE.sub("", _sound(message or "")[:_MAX_MESSAGE])
        self.message, place = _first_finding(text)
        self.is_callers_fault = _CALLERS_WORDS.match(text) is not None
        self.is_internal = _INTERNALS.search(text) is not None
        self.is_dead = _DEAD.search(text) is not None
        self.lacks_tools = _NO_TOOLS.search(text) is not None
        self.lacks_operation = text in _NO_PATH or _NOT_MADE_FOR.search(text) is not None
        self.type = _text(source.get("type"))
        self.param = _field(_text(source.get("param")) or _text(place))
        code = next((code for name in _CODES if (code := _text(source.get(name))) is not None), None)
        self.code = code.lower() if code and code.isupper() else code
        self.is_too_long = _CONTEXT_TOO_LONG.search(f"{self.type} {self.code} {self.message}") is not None
        metadata = source.get("metadata")
        # OpenRouter's 403 for what a model's provider will not read (row 177)
        self.is_moderated = isinstance(metadata, dict) and bool(metadata.keys() & {"reasons", "flagged_input"})

    @property
    def slug(self) -> str | None:
        """The code in OpenAI's sense; numbers and HTTP words are vLLM's and llama.cpp's."""
        return self.code if self.code and re.fullmatch(r"[a-z][a-z0-9_]*", self.code) else None


def _read(body: bytes) -> _ErrorDetails:
    if len(body) > _MAX_BODY:
        return _ErrorDetails(None, {})
    text = body.decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        # neither an HTML page of a load balancer nor binary data helps a caller
        return _ErrorDetails(None if text.startswith("<") or _is_binary(text) else text, {})
    if isinstance(value, list):
        value = value[0] if value else {}
    if not isinstance(value, dict):
        return _ErrorDetails(value if isinstance(value, str) else None, {})
    inner = value.get("error") or _error_of_answer(value)
    base = value.get("base_resp")
    if isinstance(base, dict) and not inner:
        status = _MINIMAX_STATUSES.get(_text(base.get("status_code")) or "", 500)
        return _ErrorDetails(_message({"message": base.get("status_msg")}), {"code": status})
    if isinstance(inner, dict):
        return _ErrorDetails(_message(inner) or _message(value), inner)
    return _ErrorDetails((inner if isinstance(inner, str) else None) or _message(value), value)


def _error_of_answer(answer: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON of any shape
    """The error in a 400 whose body is a completion (AI Foundry): of the content filter, or by the finish reason."""
    found = [each for name in ("choices", "prompt_filter_results") for each in _objects(answer.get(name))]
    filters = [given for each in found if isinstance(given := each.get("content_filter_results"), dict)]
    if told := next((error for each in (*found, *filters) if (error := each.get("error"))), None):
        return told
    categories = [category for each in filters for category in each.values() if isinstance(category, dict)]
    is_filtered = any(each.get("finish_reason") == "content_filter" for each in found)
    if not is_filtered and not any(category.get("filtered") is True for category in categories):
        return None
    return {"code": "content_filter", "message": "The upstream's content filter has stopped the answer."}


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _is_binary(text: str) -> bool:
    """Whether the decoded text was binary data, such as a compressed body."""
    return _CONTROL.search(text) is not None or text.count("\ufffd") > max(4, len(text) // 8)


def _message(source: Mapping[str, Any]) -> str | None:
    for name in ("message", "detail", "error", "errors", "text", "msg"):
        value = source.get(name)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = value[0].get("msg") or value[0].get("message")
        if isinstance(value, str) and value:
            return value
    return None


def _first_finding(message: str) -> tuple[str, str | None]:
    """The first useful words of a message, and the place that they speak of; the rest may quote the prompt."""
    if (findings := _FINDINGS.match(message)) is None:
        return message, None
    finding = _FINDING.search(findings["first"])
    return (findings["first"], None) if finding is None else (finding["words"], finding["place"])


def _field(place: str | None) -> str | None:
    """A place in OpenAI's spelling: `messages[0]` for `body.messages.0.Message.str` or the tuple of its steps.

    It ends where the names of the host's own types begin.
    """
    if place is None or (match := _PLACE.fullmatch(place)) is None:
        return place
    field = ""
    for step in _STEP.findall(match["steps"]):
        if step.isdecimal() and field:
            field += f"[{step}]"
        elif _FIELD.fullmatch(step) and step not in _TYPES:
            field += f".{step}" if field else step
        else:
            break
    return field or None


def _text(value: object) -> str | None:
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        return None
    return _sound(str(value))[:_MAX_WORD]


def _sound(text: str) -> str:
    """Without lone surrogates: `json` lets them in, and no answer of ours could hold them."""
    return text.encode("utf-8", "replace").decode()


def _rejected(status: int, told: _ErrorDetails, message: str) -> UpstreamError:
    if told.code == "model_not_found":  # llama-cpp-python's 400 (row 107)
        return UpstreamLacksModel(message, param="model", is_quoted=True)
    if status == 413 or told.is_too_long:
        param = told.param if told.param in _INPUTS else "messages"
        return UpstreamRejected(message, param=param, code="context_length_exceeded", is_quoted=True)
    return UpstreamRejected(message, param=told.param, code=told.slug, is_quoted=True)
