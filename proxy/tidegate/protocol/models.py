"""`/v1/models` (contract A.7): the cards callers get, and the lists hosts give."""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import msgspec
from msgspec import Raw, Struct

# How far a model is loaded, the best first. `loaded`: it answers at once; `loading`, `sleeping`: it answers after a
# while; `unloaded`: it answers if its engine starts on demand; `failed`: its engine failed, and may be started again.
Status = Literal["loaded", "loading", "sleeping", "unloaded", "failed"]

_STATUSES: Sequence[Status] = get_args(Status)
_encode = msgspec.json.Encoder().encode
_KEPT = frozenset({"max_model_len", "context_window", "context_length", "shutdown_date"})


class ModelCard(Struct, frozen=True, gc=False):
    """A model that can be asked for: OpenAI's four fields, and the few facts of the host that tools read.

    Attributes:
        status: that of its best engine; None, and left out of the JSON, if only hosts elsewhere have the model.
    """

    id: str
    owned_by: str
    created: int
    extras: dict[str, Raw] = {}
    status: Status | None = None

    def to_json(self) -> bytes:
        """The bare card, as `GET /v1/models/{id}` answers it."""
        own = {"id": self.id, "object": "model", "created": self.created, "owned_by": self.owned_by}
        status = {} if self.status is None else {"status": self.status}
        return _encode({**own, **self.extras, **status})


def best_status(statuses: Iterable[Status]) -> Status:
    """The best status of a model's engines, of which there is at least one."""
    return min(statuses, key=_STATUSES.index)


class _HostList(Struct):
    data: list[dict[str, Raw]]


_host_list = msgspec.json.Decoder(_HostList | list[dict[str, Raw]])
_text = msgspec.json.Decoder(str)
_int = msgspec.json.Decoder(int, strict=False)


def list_to_json(cards: list[ModelCard]) -> bytes:
    """`{"object":"list","data":[…]}`."""
    return b'{"object":"list","data":[' + b",".join(card.to_json() for card in cards) + b"]}"


def parse_list(body: bytes, *, owned_by: str) -> list[ModelCard]:
    """The models in a host's answer; entries without an id are left out.

    Raises:
        msgspec.DecodeError: the body is no list of models.
    """
    decoded = _host_list.decode(body)
    entries = decoded if isinstance(decoded, list) else decoded.data
    return [card for entry in entries if (card := _card(entry, owned_by)) is not None]


def _card(entry: dict[str, Raw], owned_by: str) -> ModelCard | None:
    try:
        model_id = _text.decode(entry["id"])
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    try:
        created = _int.decode(entry["created"])
    except (KeyError, msgspec.DecodeError):  # some hosts write dates
        created = 0
    extras = {name: entry[name].copy() for name in _KEPT & entry.keys()}
    return ModelCard(id=model_id, owned_by=owned_by, created=created, extras=extras)
