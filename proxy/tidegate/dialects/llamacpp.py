"""llama.cpp's server (contract B.4)."""

from msgspec import Raw

from tidegate.dialects.base import ONLY_OPENAI, TEXT_AND_IMAGES, Dialect
from tidegate.dialects.messages import Rules, role_of, set_text, text_of
from tidegate.dialects.request_draft import Message, RequestDraft
from tidegate.dialects.thinking import Thinking, put_effort, put_template_switch
from tidegate.dialects.tools import ALL_CHOICES
from tidegate.errors import MalformedRequest
from tidegate.protocol.raw import as_object

_put_effort = put_effort(off=None)
_BOOLEANS = {b'"true"': Raw(b"true"), b'"false"': Raw(b"false")}


def _put_thinking(draft: RequestDraft, thinking: Thinking) -> None:
    """Set the switch of the chat template; the effort is sent too, as some templates use it."""
    _put_effort(draft, thinking)
    if thinking.is_on is not None:
        put_template_switch(draft, ("enable_thinking",), is_on=thinking.is_on)
    if thinking.budget is not None:
        draft.fields["thinking_budget_tokens"], thinking.budget = thinking.budget, None


def _adjust(draft: RequestDraft) -> None:
    _fix_switch(draft)
    _drop_logprobs(draft)
    _join_last_answers(draft)


def _fix_switch(draft: RequestDraft) -> None:
    """Row 105b: turn the strings "true" and "false" into booleans, as llama.cpp refuses a switch that is a string."""
    switches = as_object(draft.fields.get("chat_template_kwargs"))
    boolean = _BOOLEANS.get(bytes(switches.get("enable_thinking", b"")))
    if boolean is not None:
        draft.put("chat_template_kwargs", switches | {"enable_thinking": boolean})


def _drop_logprobs(draft: RequestDraft) -> None:
    """Row 100: drop log probabilities from a stream with tools, as llama.cpp refuses both together.

    Raises:
        UnsupportedParameter: the caller does not allow dropping them.
    """
    if draft.is_stream and "tools" in draft.fields and bytes(draft.fields.get("logprobs", b"")) == b"true":
        for name in ("logprobs", "top_logprobs"):
            if name in draft.fields:
                draft.drop_or_refuse(name, why="is not supported together with 'tools' with this model")


def _join_last_answers(draft: RequestDraft) -> None:
    """Row 101: join several assistant messages at the end into one.

    llama.cpp continues an assistant message at the end. It refuses two of them, and one that calls tools.

    Raises:
        MalformedRequest: the last message calls tools.
    """
    messages = draft.messages
    if role_of(messages[-1]) == "assistant" and "tool_calls" in messages[-1]:
        raise MalformedRequest("The last message calls tools, but no message holds their results.", param="messages")
    begin = len(messages)
    while begin and _is_answer(messages[begin - 1]):
        begin -= 1
    if texts := [text_of(message) or "" for message in messages[begin:]]:
        if len(texts) > 1:
            draft.note("messages", "joined")
        set_text(messages[begin], "\n".join(texts))
        del messages[begin + 1 :]


def _is_answer(message: Message) -> bool:
    return role_of(message) == "assistant" and text_of(message) is not None and "tool_calls" not in message


DIALECT = Dialect(
    name="llamacpp",
    rules=Rules(reasoning="reasoning_content", merges_system=True),
    unsupported_fields=ONLY_OPENAI | {"best_of", "suffix"},  # row 104
    max_tokens="max_tokens",
    tool_choices=ALL_CHOICES - {"named"},  # row 98: llama.cpp would read a named choice as "auto"
    parts=TEXT_AND_IMAGES | {"input_audio", "input_video", "video_url"},
    fetches_urls=False,
    keeps_template_kwargs=True,
    may_lack_parser=True,
    leaks_markup=True,
    put_thinking=_put_thinking,
    answer_prefix="vllm",  # row 101: it continues a last assistant message; newer versions also support vLLM's fields
    adjust=_adjust,
)
