"""Reads token counts, for which hosts use different names, into one struct with OpenAI's names (contract B.17)."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType


class PromptDetails(Struct, omit_defaults=True, gc=False):
    """`prompt_tokens_details`."""

    cached_tokens: int | UnsetType = UNSET
    cache_write_tokens: int | UnsetType = UNSET
    audio_tokens: int | UnsetType = UNSET


class CompletionDetails(Struct, omit_defaults=True, gc=False):
    """`completion_tokens_details`."""

    reasoning_tokens: int | UnsetType = UNSET
    audio_tokens: int | UnsetType = UNSET
    accepted_prediction_tokens: int | UnsetType = UNSET
    rejected_prediction_tokens: int | UnsetType = UNSET


class Usage(Struct, gc=False):
    """`usage`, in tokens. The two `prompt_cache_*` counts are DeepSeek's; its own clients read them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | UnsetType = UNSET
    completion_tokens_details: CompletionDetails | UnsetType = UNSET
    prompt_cache_hit_tokens: int | UnsetType = UNSET
    prompt_cache_miss_tokens: int | UnsetType = UNSET


_MAX_COUNT = 2**53  # larger integers are not exact in JavaScript
_DIGITS = re.compile(r"\s*(\d{1,16})(?:\.0*)?\s*", re.ASCII)  # some hosts write numbers as strings
_REQUIRED = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_PROMPT = ("prompt_tokens", "input_tokens", "prompt_eval_count", "num_prompt_tokens", "prompt_token_count")
_COMPLETION = (
    "completion_tokens",
    "output_tokens",
    "eval_count",
    "num_completion_tokens",
    "generation_token_count",
)
_CACHED = (
    "cached_tokens",
    "prompt_cache_hit_tokens",
    "cache_read_input_tokens",
    "cache_read_tokens",
    "num_cached_tokens",
)
_CACHE_WRITE = (
    "cache_write_tokens",
    "created_cache_tokens",
    "cache_creation_input_tokens",
    "cache_creation_tokens",
)
_COUNTS = (*_PROMPT, *_COMPLETION, "total_tokens")


def counts_anything(raw: Mapping[str, Any]) -> bool:
    """Whether a host's `usage` holds a count other than 0. Some hosts also send a `usage` that is `{}` or all zeros."""
    return any(_first_count(raw, (name,)) for name in _COUNTS)


def parse_usage(raw: Mapping[str, Any], *, has_reasoned: bool = False) -> Usage:
    """Read a host's `usage`; missing and null counts become 0, details that the host did not send stay unset.

    Args:
        raw: the host's `usage`.
        has_reasoned: the answer holds reasoning. A reasoning count of 0 is then wrong (vLLM sends it) and is left out
            (contract 76k).
    """
    if (plain := _plain_usage(raw)) is not None:
        return plain
    prompt, completion, total = (
        _first_count(raw, _PROMPT),
        _first_count(raw, _COMPLETION),
        _first_count(raw, ("total_tokens",)),
    )
    if prompt is None:
        prompt = max(0, (total or 0) - (completion or 0))
    if completion is None:
        completion = max(0, (total or 0) - prompt)
    details = _completion_details(raw, has_reasoned=has_reasoned)
    reasoning = UNSET if details is UNSET else details.reasoning_tokens
    if reasoning is not UNSET and total == prompt + completion + reasoning:  # xAI counts reasoning separately
        completion += reasoning
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion if total is None else total,
        prompt_tokens_details=_prompt_details(raw),
        completion_tokens_details=details,
        prompt_cache_hit_tokens=_or_unset(_first_count(raw, ("prompt_cache_hit_tokens",))),
        prompt_cache_miss_tokens=_or_unset(_first_count(raw, ("prompt_cache_miss_tokens",))),
    )


def sum_usage(first: Usage, second: Usage) -> Usage:
    """Add the counts of two answers; a count that only one of them has is taken as it is."""
    return msgspec.convert(_sum(msgspec.to_builtins(first), msgspec.to_builtins(second)), Usage)


def _sum(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    total = dict(first)
    for name, value in second.items():
        if isinstance(value, dict):
            total[name] = _sum(total.get(name, {}), value)
        else:
            total[name] = total.get(name, 0) + value
    return total


def _plain_usage(raw: Mapping[str, Any]) -> Usage | None:
    """Read a `usage` of just the three required counts; None for any other.

    Most hosts send this form with every answer, so it has a fast path.
    """
    try:
        usage = Usage(raw["prompt_tokens"], raw["completion_tokens"], raw["total_tokens"])
    except KeyError:
        return None
    for name, value in raw.items():
        is_count = name in _REQUIRED and type(value) is int and 0 <= value < _MAX_COUNT
        if not (is_count or (value is None and name not in _REQUIRED)):
            return None
    return usage


def _prompt_details(raw: Mapping[str, Any]) -> PromptDetails | UnsetType:
    given = _mapping(raw, "prompt_tokens_details") or _mapping(raw, "input_tokens_details")
    details = PromptDetails(
        cached_tokens=_or_unset(_first_in_either(given, raw, _CACHED)),
        cache_write_tokens=_or_unset(_first_in_either(given, raw, _CACHE_WRITE)),
        audio_tokens=_or_unset(_first_count(given, ("audio_tokens",))),
    )
    return details if details != PromptDetails() else UNSET


def _completion_details(raw: Mapping[str, Any], *, has_reasoned: bool) -> CompletionDetails | UnsetType:
    given = _mapping(raw, "completion_tokens_details") or _mapping(raw, "output_tokens_details")
    reasoning = _first_in_either(given, raw, ("reasoning_tokens",))
    details = CompletionDetails(
        reasoning_tokens=UNSET if has_reasoned and reasoning == 0 else _or_unset(reasoning),
        audio_tokens=_or_unset(_first_count(given, ("audio_tokens",))),
        accepted_prediction_tokens=_or_unset(_first_count(given, ("accepted_prediction_tokens",))),
        rejected_prediction_tokens=_or_unset(_first_count(given, ("rejected_prediction_tokens",))),
    )
    return details if details != CompletionDetails() else UNSET


def _first_in_either(details_object: Mapping[str, Any], whole: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    value = _first_count(details_object, names)
    return _first_count(whole, names) if value is None else value


def _first_count(raw: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = raw.get(name)
        if isinstance(value, str) and (digits := _DIGITS.fullmatch(value)):
            value = int(digits[1])
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_COUNT:  # no NaN
            return max(0, int(value))
    return None


def _mapping(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def _or_unset(value: int | None) -> int | UnsetType:
    return UNSET if value is None else value
