"""Converts a host's log probabilities to OpenAI's forms, for chat and legacy completions (contract A.2, A.8 and R-LP).

Clients read these values without checking their types, so a value of a wrong type is replaced. A log probability that
is not a finite number becomes -9999.0, which OpenAI uses for "very unlikely".
"""

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

_NO_LOGPROB = -9999.0


def canonical_logprobs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"content": […], "refusal": …}` for chat from the host's chat or legacy form, without other fields."""
    if isinstance(given.get("tokens"), list):
        return {"content": _from_legacy(given), "refusal": None}
    return {"content": _entries(given.get("content")), "refusal": _entries(given.get("refusal"))}


def legacy_logprobs(given: Mapping[str, Any], *, offset: int = 0) -> dict[str, Any]:
    """Return `{"tokens", "token_logprobs", "top_logprobs", "text_offset"}` for completions, from either form.

    Args:
        given: the host's log probabilities.
        offset: the number of characters in all earlier tokens. Not used for the legacy form, which has offsets.
    """
    if not isinstance(given.get("content"), list):
        return _legacy(given)
    entries = _entries(given["content"]) or []
    tokens = [entry["token"] for entry in entries]
    return {
        "tokens": tokens,
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [{top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in entries],
        "text_offset": list(accumulate(map(len, tokens), initial=offset))[:-1],
    }


def character_count(legacy: Mapping[str, Any]) -> int:
    """Return the number of characters in the tokens of the legacy form."""
    return sum(len(token) for token in _list(legacy.get("tokens")) if isinstance(token, str))


def _entries(value: object) -> list[dict[str, Any]] | None:
    if not isinstance(value, list):
        return None
    return [_entry(item) | {"top_logprobs": _tops(item)} for item in value if isinstance(item, dict)]


def _tops(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_entry(top) for top in _list(item.get("top_logprobs")) if isinstance(top, dict)]


def _entry(item: Mapping[str, Any]) -> dict[str, Any]:
    return _token(item.get("token"), item.get("logprob"), item.get("bytes"))


def _token(token: object, logprob: object, given: object = None) -> dict[str, Any]:
    text = token if isinstance(token, str) else ""
    is_good = isinstance(given, list) and all(isinstance(byte, int) and 0 <= byte <= 255 for byte in given)
    return {"token": text, "logprob": _number(logprob), "bytes": given if is_good else list(text.encode())}


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        return _NO_LOGPROB
    try:
        number = float(value)
    except OverflowError:
        return _NO_LOGPROB
    return number if math.isfinite(number) else _NO_LOGPROB


def _from_legacy(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    values, tops = _list(given.get("token_logprobs")), _list(given.get("top_logprobs"))
    entries = []
    for position, token in enumerate(given["tokens"]):
        top = tops[position] if position < len(tops) else None
        others = [_token(name, value) for name, value in top.items()] if isinstance(top, dict) else []
        value = values[position] if position < len(values) else None
        entries.append(_token(str(token), value) | {"top_logprobs": others})
    return entries


def _legacy(given: Mapping[str, Any]) -> dict[str, Any]:
    tops = given.get("top_logprobs")
    return {
        "tokens": [token if isinstance(token, str) else "" for token in _list(given.get("tokens"))],
        # OpenAI sends null for the first token of a prompt
        "token_logprobs": [None if value is None else _number(value) for value in _list(given.get("token_logprobs"))],
        "top_logprobs": [_numbers(top) for top in tops] if isinstance(tops, list) else None,
        "text_offset": [offset for offset in _list(given.get("text_offset")) if type(offset) is int],
    }


def _numbers(top: object) -> dict[str, float] | None:
    return {name: _number(value) for name, value in top.items()} if isinstance(top, dict) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
