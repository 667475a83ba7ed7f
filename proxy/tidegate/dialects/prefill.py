"""Going on with an answer that broke off at another host: what was said, as the beginning of what is to be said.

Only where the host says that it can: others would answer anew to an assistant's last word, or refuse it.
"""

from typing import Literal

from msgspec import Raw

from tidegate.dialects.draft import Draft, Message
from tidegate.dialects.messages import set_text
from tidegate.errors import UpstreamLacksModel
from tidegate.protocol.raw import as_text

Prefill = Literal["vllm", "deepseek_beta"]


def put_message(draft: Draft, form: Prefill | None) -> None:
    """The text so far as a last message that is still open.

    Raises:
        UpstreamLacksModel: the host cannot go on with an answer, another target may.
    """
    if form is None:
        raise UpstreamLacksModel("The upstream for this model cannot go on with an answer.")
    message: Message = {"role": Raw(b'"assistant"')}
    set_text(message, draft.prefix)
    if form == "deepseek_beta":
        message["prefix"] = Raw(b"true")
    else:
        draft.put("continue_final_message", True)  # noqa: FBT003 - a value
        draft.put("add_generation_prompt", False)  # noqa: FBT003 - a value
    draft.messages.append(message)


def put_prompt(draft: Draft) -> None:
    """A completion goes on from any text."""
    draft.put("prompt", (as_text(draft.fields.get("prompt")) or "") + draft.prefix)
