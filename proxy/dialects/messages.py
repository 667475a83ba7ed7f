"""The message rules of the contract's B.0, on raw messages: roles, text arrays, past reasoning and calls, nulls."""

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Raw, Struct

from proxy.dialects.draft import Message
from proxy.errors import MalformedRequest, UnsupportedParameter
from proxy.protocol.raw import as_list, as_object, as_text
from proxy.protocol.request import Fields, is_null, json_type

_decode = msgspec.json.Decoder(list[Message]).decode
_encode = msgspec.json.Encoder().encode
_REASONING_NAMES = ("reasoning_content", "reasoning")
# of OpenAI's own answers, which clients send back as they came; other hosts refuse keys that they do not know
_ONLY_OPENAI = ("annotations", "audio", "function_call", "refusal")
_ROLES = {f'"{role}"'.encode(): role for role in ("system", "user", "assistant", "tool", "developer", "function")}
_OPEN, _CLOSE = "<think>", "</think>"
_EMPTY = Raw(b'""')
_NULL = Raw(b"null")


class Rules(Struct, frozen=True, kw_only=True):
    """How one host wants its messages.

    Attributes:
        is_reference: OpenAI's own, which takes what OpenAI takes; only past reasoning is left out.
        system_role: what `developer` and `system` become (Q-DEV), or None where both are known.
        merges_system: several system messages become one at the front (Q-SYS).
        joins_text: content arrays of text alone become one string (Q-TEXT).
        takes_null_content: whether an assistant message may have none; else it is the empty string.
        takes_names: whether messages may have a `name`.
        reasoning: the host's name for past reasoning (Q-REASON-IN), or None where it takes none.
        keeps_reasoning_details: OpenRouter's own form of it goes back as it came.
    """

    is_reference: bool = False
    system_role: str | None = "system"
    merges_system: bool = False
    joins_text: bool = True
    takes_null_content: bool = True
    takes_names: bool = True
    reasoning: str | None = None
    keeps_reasoning_details: bool = False


def adapt(raw: Raw, rules: Rules, *, reasoning: str | None) -> list[Message]:
    """The messages as a host takes them; unknown keys stay, duplicate keys are gone.

    Past reasoning goes under the name `reasoning` (of `Rules.reasoning`), or not at all where the model wants none.
    """
    adapted, calls_functions = _decode(raw), False
    for message in adapted:
        if len(message) > 2 or "content" not in message:  # most have a role and a content
            _drop_nulls(message)
            calls_functions = calls_functions or "function_call" in message
        if rules.is_reference:
            for name in (*_REASONING_NAMES, "reasoning_details"):
                message.pop(name, None)
    if rules.is_reference:
        return adapted
    roles = list(map(role_of, adapted))
    if calls_functions or "function" in roles:
        _modernise(adapted, roles)
    for number, message in enumerate(adapted):
        if roles[number] == "developer" and rules.system_role is not None:
            message["role"] = Raw(_encode(rules.system_role))
            roles[number] = rules.system_role
        _adapt_one(message, roles[number], rules, reasoning)
    return _merge_system(adapted, roles) if rules.merges_system else adapted


def role_of(message: Message) -> str:
    """The role; its bytes may be escaped."""
    raw = message["role"]
    return _ROLES.get(bytes(raw)) or as_text(raw) or ""


def text_of(message: Message) -> str | None:
    """The content where it is a string."""
    return as_text(message.get("content"))


def set_text(message: Message, text: str) -> None:
    """Set the content."""
    message["content"] = Raw(_encode(text))


def calls_of(message: Message) -> list[dict[str, Raw]]:
    """The tool calls of an assistant message; what is not readable as such is left out."""
    return [fields for call in as_list(message.get("tool_calls")) if (fields := as_object(call))]


def parts_of(messages: list[Message]) -> Iterator[tuple[str, str, Mapping[str, Raw]]]:
    """Every content part: where it stands (`messages[0].content[1]`), its type, and itself."""
    for number, message in enumerate(messages):
        content = message.get("content")
        if content is None or json_type(content) != "array":
            continue
        for place, raw in enumerate(as_list(content)):
            at = f"messages[{number}].content[{place}]"
            part = as_object(raw)
            kind = as_text(part.get("type"))
            if kind is None:
                raise MalformedRequest(f"Invalid '{at}': a content part has a 'type'.", param=at, code="invalid_type")
            yield at, kind, part


def check_parts(messages: list[Message], *, known: frozenset[str], has_vision: bool | None, fetches_urls: bool) -> None:
    """Whether the host and the model take every content part.

    Raises:
        UnsupportedParameter: a part is of a type that the host does not know or the model cannot see.
        MalformedRequest: a part is none, or points where a local engine must not look: it would fetch anything.
    """
    for at, kind, part in parts_of(messages):
        if kind not in known:
            raise UnsupportedParameter(
                f"Invalid value: '{kind[:64]}' parts are not supported with this model.",
                param=f"{at}.type",
                code="unsupported_content",
            )
        if kind == "image_url" and has_vision is False:
            raise UnsupportedParameter(
                "This model does not take images.", param=f"{at}.image_url", code="unsupported_content"
            )
        if kind.endswith("_url") and not fetches_urls and not _url_of(part.get(kind)).startswith("data:"):
            raise MalformedRequest(
                "This model runs on a local engine, which may not fetch addresses. Send the bytes as a data: URL.",
                param=f"{at}.{kind}",
                code=f"unsupported_{kind}",
            )


def _url_of(value: Raw | None) -> str:
    return (as_text(as_object(value).get("url")) or as_text(value) or "").strip().lower()


def _drop_nulls(message: Message) -> None:
    for name in [name for name, value in message.items() if name != "content" and is_null(value)]:
        del message[name]


def _adapt_one(message: Message, role: str, rules: Rules, reasoning: str | None) -> None:
    content = message.get("content", _NULL)
    if rules.joins_text and json_type(content) == "array":
        message["content"] = _join_text(content)
    if not rules.takes_names:
        message.pop("name", None)
    if role == "assistant":
        _adapt_assistant(message, rules, reasoning)
    else:
        _fill_content(message)  # row 103: only the result of a function may be null


def _fill_content(message: Message) -> None:
    if is_null(message.get("content", _NULL)):
        message["content"] = _EMPTY


def _adapt_assistant(message: Message, rules: Rules, reasoning: str | None) -> None:
    refusal = message.get("refusal")
    for name in _ONLY_OPENAI:
        message.pop(name, None)
    if refusal is not None and is_null(message.get("content", _NULL)):
        message["content"] = refusal
    if not rules.takes_null_content:
        _fill_content(message)
    if "tool_calls" in message:
        _mend_calls(message)
    _rename_reasoning(message, rules, reasoning)


def _join_text(content: Raw) -> Raw:
    """The texts end to end, or the array without what only OpenAI knows where not all is text."""
    parts = [as_object(part) for part in as_list(content)]
    texts = [part.get("text") or part.get("refusal") for part in parts]
    is_text = [bytes(part.get("type", _EMPTY)) in {b'"text"', b'"refusal"'} for part in parts]
    if all(is_text):
        return Raw(_encode("".join(as_text(text) or "" for text in texts)))
    for part in parts:
        part.pop("prompt_cache_breakpoint", None)
    return Raw(_encode(parts))


def _mend_calls(message: Message) -> None:
    """Q-ARGS: hosts read the arguments of past calls, and fail on what is no object."""
    calls = calls_of(message)
    if not calls:
        del message["tool_calls"]
        return
    is_mended = False
    for call in calls:
        fields = as_object(call.get("function"))
        if fields and not _is_object_text(fields.get("arguments")):
            fields["arguments"] = _object_text(fields.get("arguments"))
            call["function"] = Raw(_encode(fields))
            is_mended = True
    if is_mended:
        message["tool_calls"] = Raw(_encode(calls))


def _is_object_text(arguments: Raw | None) -> bool:
    try:
        return isinstance(msgspec.json.decode(as_text(arguments) or ""), dict)
    except (msgspec.DecodeError, RecursionError):
        return False


def _object_text(arguments: Raw | None) -> Raw:
    fields = as_object(arguments)
    return Raw(_encode(_encode(fields).decode()))


def _rename_reasoning(message: Message, rules: Rules, reasoning: str | None) -> None:
    given = [message.pop(old) for old in _REASONING_NAMES if old in message]
    if not rules.keeps_reasoning_details and (details := message.pop("reasoning_details", None)) is not None:
        given.append(_text_of_details(details))
    given.append(_split_thought(message))
    # DeepSeek takes "" for missing (row 31)
    found = [value for value in given if as_text(value)]
    if reasoning is not None and found:
        message[reasoning] = found[0]


def _text_of_details(details: Raw) -> Raw:
    items = msgspec.json.decode(details)
    texts = [item.get("text") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return Raw(_encode("".join(text for text in texts if isinstance(text, str))))


def _split_thought(message: Message) -> Raw:
    """Thinking that a client keeps inline (`think_tags`): out of the content."""
    text = text_of(message)
    if text is None or not text.lstrip().startswith(_OPEN) or _CLOSE not in text:
        return _EMPTY
    thought, _, answer = text.lstrip().removeprefix(_OPEN).partition(_CLOSE)
    set_text(message, answer.lstrip())
    return Raw(_encode(thought.strip()))


def _modernise(messages: list[Message], roles: list[str]) -> None:
    """`function_call` and the role `function`, which tools replaced: a call gets an id, its result points to it."""
    last_id = Raw(b'"call_0"')
    for number, message in enumerate(messages):
        if roles[number] == "function":
            message["role"] = Raw(b'"tool"')
            roles[number] = "tool"
            message["tool_call_id"] = last_id
            message.pop("name", None)
        elif "function_call" in message and "tool_calls" not in message:
            last_id = Raw(b'"call_%d"' % number)
            call: Fields = {"id": last_id, "type": Raw(b'"function"'), "function": message.pop("function_call")}
            message["tool_calls"] = Raw(_encode([call]))


def _merge_system(messages: list[Message], roles: list[str]) -> list[Message]:
    """Q-SYS: one system message at the front, for templates that know of one only."""
    number = roles.count("system")
    if not number or (number == 1 and roles[0] == "system"):
        return messages
    systems = [message for message, role in zip(messages, roles, strict=True) if role == "system"]
    texts = [text for message in systems if (text := text_of(message)) is not None]
    if len(texts) != number:
        return messages
    first = dict(systems[0])
    set_text(first, "\n\n".join(texts))
    return [first, *(message for message, role in zip(messages, roles, strict=True) if role != "system")]
