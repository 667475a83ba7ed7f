"""From our own headers to `Wishes`."""

from collections.abc import Mapping

from proxy.errors import MalformedRequest
from proxy.pipeline.context import Wishes
from proxy.protocol.reasoning import read_format

_DROP, _REASONING = "x-tidegate-drop-params", "x-tidegate-reasoning"
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_NONE = Wishes()


def read_wishes(headers: Mapping[bytes, bytes]) -> Wishes:
    """What `x-tidegate-drop-params` and `x-tidegate-reasoning` say.

    Raises:
        MalformedRequest: one of them means nothing.
    """
    drop, reasoning = headers.get(_DROP.encode()), headers.get(_REASONING.encode())
    if drop is None and reasoning is None:
        return _NONE
    form = None if reasoning is None else read_format(reasoning.decode("latin-1").strip().lower(), _REASONING)
    return Wishes(None if drop is None else _truth(drop.decode("latin-1").strip().lower()), form)


def _truth(word: str) -> bool:
    if word not in _TRUTH:
        raise MalformedRequest(
            f"Invalid value for '{_DROP}': '{word[:64]}'. Supported values are: true, false.",
            param=_DROP,
            code="invalid_value",
        )
    return _TRUTH[word]
