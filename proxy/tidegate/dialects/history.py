"""Restores the reasoning of past turns for hosts that require it in every request (contract B.1, row 10; C.7).

Most clients drop the reasoning. Tidegate stores the reasoning that it served under the ids of the turn's tool calls
(`tidegate.reasoning_memory`), and this module puts it back. A turn whose reasoning is not stored gets a stand-in text.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw

from tidegate.dialects.messages import calls_of, role_of
from tidegate.dialects.request_draft import Message, RequestDraft
from tidegate.protocol.raw import as_text
from tidegate.protocol.request import Fields

_messages = msgspec.json.Decoder(list[Message])
_encode = msgspec.json.Encoder().encode


def call_ids(fields: Fields) -> Sequence[str]:
    """Return the ids of all tool calls in the messages of a request."""
    return [call_id for message in _messages.decode(fields["messages"]) for call_id in _call_ids(message)]


def restore(draft: RequestDraft, name: str, past_reasoning: Mapping[str, str], *, stand_in: str | None) -> None:
    """Add the stored reasoning, or the stand-in text, to each assistant message that has no reasoning.

    Args:
        draft: the request, whose messages are changed in place.
        name: the message field in which the host expects reasoning.
        past_reasoning: the stored reasoning by tool-call id.
        stand_in: the text that the host accepts for a turn without stored reasoning; None: such a turn stays unchanged.
    """
    has_restored = has_stand_in = False
    for message in draft.messages:
        if role_of(message) != "assistant" or name in message:
            continue
        found = next((past_reasoning[call_id] for call_id in _call_ids(message) if call_id in past_reasoning), None)
        text = stand_in if found is None else found
        if text is None:
            continue
        message[name] = Raw(_encode(text))
        has_restored, has_stand_in = has_restored or found is not None, has_stand_in or found is None
    if has_restored:
        draft.note("reasoning_content", "restored")
    if has_stand_in:
        draft.note("reasoning_content", "stand-in")


def _call_ids(message: Message) -> list[str]:
    return [call_id for call in calls_of(message) if (call_id := as_text(call.get("id")))]
