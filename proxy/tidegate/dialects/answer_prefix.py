"""Continues an answer that broke off at another host: the text so far is sent as the beginning of the answer.

Only hosts with a documented way to do this can continue. Other hosts would begin a new answer after a last message of
the assistant, or refuse it.
"""

from typing import Literal

from msgspec import Raw

from tidegate.dialects.messages import set_text
from tidegate.dialects.request_draft import Message, RequestDraft
from tidegate.errors import UpstreamLacksModel
from tidegate.protocol.raw import as_text

# How a host is asked to continue. `vllm`: by the request fields `continue_final_message` and `add_generation_prompt`;
# `deepseek_beta`: by the key `prefix` of the last message, at the beta URL.
AnswerPrefix = Literal["vllm", "deepseek_beta"]


def put_message(draft: RequestDraft, form: AnswerPrefix | None) -> None:
    """Append the text so far as a last assistant message that the host has to continue.

    Args:
        draft: the request; `prefix` is the text so far.
        form: how the host is asked to continue; None: it cannot continue an answer.

    Raises:
        UpstreamLacksModel: the host cannot continue an answer; another target may.
    """
    if form is None:
        raise UpstreamLacksModel("The upstream for this model cannot continue an answer.")
    message: Message = {"role": Raw(b'"assistant"')}
    set_text(message, draft.prefix)
    if form == "deepseek_beta":
        message["prefix"] = Raw(b"true")
    else:
        draft.put("continue_final_message", True)  # noqa: FBT003 - a value
        draft.put("add_generation_prompt", False)  # noqa: FBT003 - a value
    draft.messages.append(message)


def put_prompt(draft: RequestDraft) -> None:
    """Append the text so far to the prompt of a completion, which continues any text."""
    draft.put("prompt", (as_text(draft.fields.get("prompt")) or "") + draft.prefix)
