"""`/v1/models` (contract A.7): the model cards for callers, and parsing of the lists that hosts return."""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import msgspec
from msgspec import Raw, Struct

# How far a model is loaded, the best first. `loaded`: it can answer at once; `loading`, `sleeping`: it can answer after
# a while; `unloaded`: it can answer if its engine starts on demand; `failed`: its engine failed and may be restarted.
Status = Literal["loaded", "loading", "sleeping", "unloaded", "failed"]

_STATUSES: Sequence[Status] = get_args(Status)
_encode = msgspec.json.Encoder().encode
_KEPT = frozenset({"max_model_len", "context_window", "context_length", "shutdown_date"})


class ModelCard(Struct, frozen=True, gc=False):
    """A model that callers can request.

    Attributes:
        id, owned_by, created: OpenAI's fields; `created` is a Unix time in seconds. The field `object` is constant.
        extras: fields of the host's own card that client tools read (see `_KEPT`).
        status: the best status among the engines with the model. None if only hosted upstreams have the model; then it
            is left out of the JSON.
    """

    id: str
    owned_by: str
    created: int
    extras: dict[str, Raw] = {}
    status: Status | None = None

    def to_json(self) -> bytes:
        """Return the card as JSON, which is the answer to `GET /v1/models/{id}`."""
        own = {"id": self.id, "object": "model", "created": self.created, "owned_by": self.owned_by}
        status = {} if self.status is None else {"status": self.status}
        return _encode({**own, **self.extras, **status})


def best_status(statuses: Iterable[Status]) -> Status:
    """Return the best of the statuses of a model's engines; there must be at least one."""
    return min(statuses, key=_STATUSES.index)


class _HostList(Struct):
    data: list[dict[str, Raw]]


_host_list = msgspec.json.Decoder(_HostList | list[dict[str, Raw]])
_text = msgspec.json.Decoder(str)
_int = msgspec.json.Decoder(int, strict=False)


def list_to_json(cards: list[ModelCard]) -> bytes:
    """Return the answer to `GET /v1/models`: `{"object":"list","data":[…]}`."""
    return b'{"object":"list","data":[' + b",".join(card.to_json() for card in cards) + b"]}"


def parse_list(body: bytes, *, owned_by: str) -> list[ModelCard]:
    """Parse a host's list of models; entries without an id are left out.

    Args:
        body: the body of the host's answer: an object with `data`, or a bare list.
        owned_by: the `owned_by` of all cards.

    Raises:
        msgspec.DecodeError: the body is not a list of models.
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
