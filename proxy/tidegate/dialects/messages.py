"""Adapts messages to a host by the rules of contract B.0: roles, text arrays, past reasoning and calls, nulls.

Messages are dicts of raw JSON values, so that values that no rule reads are not decoded.
"""

import hashlib

import msgspec
from msgspec import Raw, Struct

from tidegate.dialects import parts
from tidegate.dialects.request_draft import Message, Note, compact, ignore_note
from tidegate.protocol.raw import as_list, as_object, as_text
from tidegate.protocol.request import Fields, is_null, json_type

_decode = msgspec.json.Decoder(list[Message]).decode
_encode = msgspec.json.Encoder().encode
_REASONING_NAMES = ("reasoning_content", "reasoning")
# Keys of OpenAI's own answers. Clients send them back unchanged, but other hosts refuse keys that they do not support.
_ONLY_OPENAI = ("annotations", "function_call")
_ROLES = {f'"{role}"'.encode(): role for role in ("system", "user", "assistant", "tool", "developer", "function")}
_MAX_ID = 64  # the most characters that OpenAI accepts
_OPEN, _CLOSE = "<think>", "</think>"
_OTHER_CONTENT = frozenset({"tool_calls", "function_call", "audio", "refusal"})
_EMPTY_VALUES = frozenset({b'""', b"[]", b"null", b"{}"})
_EMPTY = Raw(b'""')
_NULL = Raw(b"null")


class Rules(Struct, frozen=True, kw_only=True):
    """How messages are adapted to one host.

    Attributes:
        is_reference: the host is OpenAI or Azure. The messages stay as they are, except that past reasoning and keys of
            other hosts are removed.
        system_role: the role that replaces `developer` (Q-DEV); None: the host supports both roles.
        merges_system: several system messages become one at the front (Q-SYS).
        joins_text: content arrays that hold only text become one string (Q-TEXT).
        takes_null_content: an assistant message may have null content; otherwise the empty string is sent.
        takes_names: messages may have a `name`.
        reasoning: the host's key for past reasoning (Q-REASON-IN); None: the host accepts no past reasoning.
        keeps_reasoning_details: OpenRouter's `reasoning_details` are sent back unchanged.
        keeps_extra_content: Gemini's `extra_content` of messages and calls (thought signatures) is sent back unchanged.
        keeps_cache_control: Anthropic's `cache_control` is sent, and text parts that have it are not joined.
    """

    is_reference: bool = False
    system_role: str | None = "system"
    merges_system: bool = False
    joins_text: bool = True
    takes_null_content: bool = True
    takes_names: bool = True
    reasoning: str | None = None
    keeps_reasoning_details: bool = False
    keeps_extra_content: bool = False
    keeps_cache_control: bool = False


def adapt(raw: Raw, rules: Rules, *, reasoning: str | None, note: Note = ignore_note) -> list[Message]:
    """Return the messages in the form that a host accepts; unknown keys are kept, duplicate keys are removed.

    Args:
        raw: the caller's messages.
        rules: the host's rules.
        reasoning: the key for past reasoning: `rules.reasoning`, or None if the model accepts no past reasoning.
        note: is called for each change.

    Raises:
        msgspec.DecodeError: the messages are not a JSON array of objects.
    """
    adapted, calls_functions = _decode(raw), False
    for message in adapted:
        if len(message) > 2 or "content" not in message:  # skips the common message with only a role and a content
            _drop_nulls(message)
            calls_functions = calls_functions or "function_call" in message
            _drop_vendor_keys(message, rules, note)
    if rules.is_reference:
        for message in adapted:
            _adapt_to_reference(message, rules, note)
        _shorten_ids(adapted)
        return adapted
    roles = list(map(role_of, adapted))
    if calls_functions or "function" in roles:
        _modernise(adapted, roles)
    for number, message in enumerate(adapted):
        if roles[number] == "developer" and rules.system_role is not None:
            message["role"] = Raw(_encode(rules.system_role))
            roles[number] = rules.system_role
        _adapt_one(message, roles[number], rules, reasoning, note)
    return _merge_system(adapted, roles, note) if rules.merges_system else adapted


def role_of(message: Message) -> str:
    """Return the role of a message. Its JSON is decoded if needed, as it may contain escapes."""
    raw = message["role"]
    return _ROLES.get(bytes(raw)) or as_text(raw) or ""


def text_of(message: Message) -> str | None:
    """Return the content if it is a string, else None."""
    return as_text(message.get("content"))


def set_text(message: Message, text: str) -> None:
    """Set the content to a string."""
    message["content"] = Raw(_encode(text))


def calls_of(message: Message) -> list[dict[str, Raw]]:
    """Return the tool calls of an assistant message, without items that are not JSON objects."""
    return [fields for call in as_list(message.get("tool_calls")) if (fields := as_object(call))]


def _drop_nulls(message: Message) -> None:
    for name in [name for name, value in message.items() if name != "content" and is_null(value)]:
        del message[name]


def _drop_vendor_keys(message: Message, rules: Rules, note: Note) -> None:
    """Drop keys that come from the answers of another host and that this host refuses."""
    if not rules.keeps_extra_content and message.pop("extra_content", None) is not None:
        note("extra_content", "dropped")
    if not rules.keeps_cache_control and message.pop("cache_control", None) is not None:
        note("cache_control", "dropped")


def _adapt_to_reference(message: Message, rules: Rules, note: Note) -> None:
    """Remove what OpenAI refuses: reasoning, keys of other hosts, empty lists, missing content."""
    role = role_of(message)
    thoughts = _adapt_parts(message, role, rules, note)
    if len(message) == 2 and "content" in message and not thoughts:
        return
    given = [message.pop(name, _EMPTY) for name in (*_REASONING_NAMES, "reasoning_details")]
    if thoughts or any(compact(value) not in _EMPTY_VALUES for value in given):
        note("reasoning_content", "dropped")
    if "tool_calls" in message:
        _adapt_calls(message, rules, note)
    if role == "assistant" and message.keys().isdisjoint(_OTHER_CONTENT):
        _fill_content(message)


def _shorten_ids(messages: list[Message]) -> None:
    """Replace ids of tool calls that are too long for OpenAI, such as Gemini's ids, which contain a signature."""
    given = (as_text(message.get("tool_call_id")) for message in messages)
    short = {old: _short_id(old) for old in given if old is not None and len(old) > _MAX_ID}
    if not short:
        return
    for message in messages:
        if (new := short.get(as_text(message.get("tool_call_id")) or "")) is not None:
            message["tool_call_id"] = new
        calls = calls_of(message)
        for call in calls:
            if (new := short.get(as_text(call.get("id")) or "")) is not None:
                call["id"] = new
        if calls:
            message["tool_calls"] = Raw(_encode(calls))


def _short_id(call_id: str) -> Raw:
    """Return a hash of the id: it is the same in every turn, so that the host's prompt cache still matches."""
    return Raw(_encode(f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:24]}"))


def _adapt_one(message: Message, role: str, rules: Rules, reasoning: str | None, note: Note) -> None:
    thoughts = _adapt_parts(message, role, rules, note)
    if not rules.takes_names and message.pop("name", None) is not None:
        note("name", "dropped")
    if role == "assistant":
        _adapt_assistant(message, rules, reasoning, thoughts, note)
    else:
        _fill_content(message)  # row 103: content is required; null can only come from a legacy function's result


def _adapt_parts(message: Message, role: str, rules: Rules, note: Note) -> list[Raw]:
    if json_type(message.get("content", _NULL)) != "array":
        return []
    return parts.adapt(
        message,
        note,
        is_answer=role == "assistant",
        keeps_cache_control=rules.keeps_cache_control,
        joins_text=rules.joins_text and not rules.is_reference,
    )


def _fill_content(message: Message) -> None:
    if is_null(message.get("content", _NULL)):
        message["content"] = _EMPTY


def _adapt_assistant(message: Message, rules: Rules, reasoning: str | None, thoughts: list[Raw], note: Note) -> None:
    if len(message) > 2 or "content" not in message:
        _move_to_content(message, note)
        for name in _ONLY_OPENAI:
            if compact(message.pop(name, _EMPTY)) not in _EMPTY_VALUES:
                note(name, "dropped")
        if "tool_calls" in message:
            _adapt_calls(message, rules, note)
    if not rules.takes_null_content or "tool_calls" not in message:
        _fill_content(message)
    _rename_reasoning(message, rules, reasoning, thoughts, note)


def _move_to_content(message: Message, note: Note) -> None:
    """Move a refusal, or else the transcript of audio, to the content if that is null; otherwise drop both."""
    refusal, audio = message.pop("refusal", None), message.pop("audio", None)
    transcript = as_object(audio).get("transcript")
    text = next((value for value in (refusal, transcript) if as_text(value)), None)
    if is_null(message.get("content", _NULL)) and text is not None:
        message["content"] = text
    elif as_text(refusal):
        note("refusal", "dropped")
    if audio is not None:
        note("audio", "dropped")


def _adapt_calls(message: Message, rules: Rules, note: Note) -> None:
    """Q-ARGS: make the arguments of past calls JSON objects, as hosts decode them; remove an empty list of calls."""
    given = message["tool_calls"]
    if rules.is_reference and compact(given) != b"[]" and b"extra_content" not in bytes(given):
        return
    calls = calls_of(message)
    if compact(given) != b"[]" and len(calls) < max(len(as_list(given)), 1):
        note("tool_calls", "dropped")
    if not calls:
        del message["tool_calls"]
        return
    changes = [_adapt_call(call, rules, note) for call in calls]
    if any(changes) or len(calls) < len(as_list(given)):
        message["tool_calls"] = Raw(_encode(calls))


def _adapt_call(call: Message, rules: Rules, note: Note) -> bool:
    """Adapt one call in place; return whether it was changed."""
    is_changed = not rules.keeps_extra_content and call.pop("extra_content", None) is not None
    if is_changed:
        note("extra_content", "dropped")
    fields = as_object(call.get("function"))
    if rules.is_reference or not fields or _is_object_text(fields.get("arguments")):
        return is_changed
    if as_text(fields.get("arguments")):
        note("tool_calls.arguments", "replaced")
    fields["arguments"] = _object_text(fields.get("arguments"))
    call["function"] = Raw(_encode(fields))
    return True


def _is_object_text(arguments: Raw | None) -> bool:
    try:
        return isinstance(msgspec.json.decode(as_text(arguments) or ""), dict)
    except (msgspec.DecodeError, RecursionError):
        return False


def _object_text(arguments: Raw | None) -> Raw:
    fields = as_object(arguments)
    return Raw(_encode(_encode(fields).decode()))


def _rename_reasoning(message: Message, rules: Rules, reasoning: str | None, thoughts: list[Raw], note: Note) -> None:
    """Put the past reasoning, wherever the client sent it, into the host's key; drop it if the host accepts none."""
    given = [message.pop(old) for old in _REASONING_NAMES if old in message]
    is_lost = bool(thoughts)
    if (details := message.get("reasoning_details")) is not None:
        given.append(parts.text_of(details))
        if reasoning is None or not rules.keeps_reasoning_details:
            del message["reasoning_details"]
            is_lost = is_lost or compact(details) not in _EMPTY_VALUES
    given += thoughts
    given.append(_split_thought(message))
    # DeepSeek treats "" as missing (row 31)
    found = [value for value in given if as_text(value)]
    if found and reasoning is not None:
        message[reasoning] = found[0]
    elif found or is_lost:
        note("reasoning_content", "dropped")


def _split_thought(message: Message) -> Raw:
    """Remove thinking in `<think>` tags from the beginning of the content and return it; empty if there is none.

    A client keeps thinking inline if it requested the reasoning format `think_tags`.
    """
    text = text_of(message)
    if text is None or not text.lstrip().startswith(_OPEN) or _CLOSE not in text:
        return _EMPTY
    thought, _, answer = text.lstrip().removeprefix(_OPEN).partition(_CLOSE)
    set_text(message, answer.lstrip())
    return Raw(_encode(thought.strip()))


def _modernise(messages: list[Message], roles: list[str]) -> None:
    """Turn the legacy `function_call` and role `function` into tool calls and results, linked by ids made here."""
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


def _merge_system(messages: list[Message], roles: list[str], note: Note) -> list[Message]:
    """Q-SYS: join all system messages into one at the front, for templates that support only one."""
    number = roles.count("system")
    if not number or (number == 1 and roles[0] == "system"):
        return messages
    systems = [message for message, role in zip(messages, roles, strict=True) if role == "system"]
    texts = [text for message in systems if (text := text_of(message)) is not None]
    if len(texts) != number:
        return messages
    if "system" in roles[number:]:
        note("messages", "reordered")
    first = dict(systems[0])
    set_text(first, "\n\n".join(texts))
    return [first, *(message for message, role in zip(messages, roles, strict=True) if role != "system")]
