"""Past reasoning for hosts that want it back with every turn (contract B.1, row 10; C.7).

Most clients drop it. What we served is remembered under the ids of its tool calls (`tidegate.reasoning_memory`) and
put back here; a turn from elsewhere gets a stand-in.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw

from tidegate.dialects.draft import Draft, Message
from tidegate.dialects.messages import calls_of, role_of
from tidegate.protocol.raw import as_text
from tidegate.protocol.request import Fields

_messages = msgspec.json.Decoder(list[Message])
_encode = msgspec.json.Encoder().encode


def call_ids(fields: Fields) -> Sequence[str]:
    """The ids of every tool call in the messages of a request."""
    return [call_id for message in _messages.decode(fields["messages"]) for call_id in _ids(message)]


def restore(draft: Draft, name: str, remembered: Mapping[str, str], *, stand_in: str | None) -> None:
    """Give each assistant message that has no reasoning what is remembered of it, or the stand-in.

    Args:
        draft: whose messages are mended.
        name: the field in which the host wants it.
        remembered: reasoning by tool-call id.
        stand_in: what the host accepts of a turn that we do not know; None where it needs none.
    """
    has_restored = stands_in = False
    for message in draft.messages:
        if role_of(message) != "assistant" or name in message:
            continue
        found = next((remembered[call_id] for call_id in _ids(message) if call_id in remembered), None)
        text = stand_in if found is None else found
        if text is None:
            continue
        message[name] = Raw(_encode(text))
        has_restored, stands_in = has_restored or found is not None, stands_in or found is None
    if has_restored:
        draft.note("reasoning_content", "restored")
    if stands_in:
        draft.note("reasoning_content", "stand-in")


def _ids(message: Message) -> list[str]:
    return [call_id for call in calls_of(message) if (call_id := as_text(call.get("id")))]
