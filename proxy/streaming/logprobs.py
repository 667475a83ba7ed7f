"""Log probabilities in the form of `/v1/chat/completions` (contract A.2 and R-LP)."""

from collections.abc import Mapping
from typing import Any

_NO_LOGPROB = -9999.0


def canonical_logprobs(given: Mapping[str, Any]) -> dict[str, Any]:
    """`{"content": […], "refusal": …}` from that form with extras, or from the legacy `{tokens, token_logprobs, …}`."""
    if isinstance(given.get("tokens"), list):
        return {"content": _from_legacy(given), "refusal": None}
    return {"content": _entries(given.get("content")), "refusal": _entries(given.get("refusal"))}


def _entries(value: object) -> list[dict[str, Any]] | None:
    if not isinstance(value, list):
        return None
    return [_entry(item) | {"top_logprobs": _tops(item)} for item in value if isinstance(item, dict)]


def _tops(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    tops = item.get("top_logprobs")
    return [_entry(top) for top in tops if isinstance(top, dict)] if isinstance(tops, list) else []


def _entry(item: Mapping[str, Any]) -> dict[str, Any]:
    token, logprob, given = item.get("token"), item.get("logprob"), item.get("bytes")
    return _token(
        token if isinstance(token, str) else "",
        logprob,
        given if isinstance(given, list) else None,
    )


def _token(token: str, logprob: object, given: list[int] | None = None) -> dict[str, Any]:
    value = float(logprob) if isinstance(logprob, int | float) else _NO_LOGPROB
    return {"token": token, "logprob": value, "bytes": list(token.encode()) if given is None else given}


def _from_legacy(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    tokens = given["tokens"]
    values = given.get("token_logprobs") or []
    tops = given.get("top_logprobs") or []
    entries = []
    for position, token in enumerate(tokens):
        value = values[position] if position < len(values) else None
        top = tops[position] if position < len(tops) and isinstance(tops[position], dict) else {}
        others = [_token(name, logprob) for name, logprob in top.items()]
        entries.append(_token(str(token), value) | {"top_logprobs": others})
    return entries
