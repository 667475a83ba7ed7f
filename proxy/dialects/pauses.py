"""How long a host asks us to wait, as its headers say it.

`retry-after-ms` and `retry-after` come first; then the `x-ratelimit-reset…` of whatever is used up. Hosts write these
as seconds, as durations (`6m0s`, `7.66s`, `120ms`), as moments since the epoch (seconds, or milliseconds), or as dates.
A moment is held against the host's own `date`: its clock need not be ours.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MAX_S = 3600.0  # whoever says longer is asked again after an hour: it costs one request
_MAX_LENGTH = 64
_EPOCH_S = 1e9  # a number as large as this is a moment, not a duration
_EPOCH_MS = 1e12
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s|us|µs|μs|ns))+")
_PART = re.compile(r"([\d.]+)(\D+)")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
# with nothing after `reset` it is OpenRouter's; Cerebras adds a `-day` or a `-minute`
_RESETS = ("", *(f"-{what}{per}" for what in ("requests", "tokens") for per in ("", "-minute", "-hour", "-day")))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after`, at most an hour; None where neither says anything sensible."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    pause_s = None if milliseconds is None else _sensible(milliseconds / 1000)
    return pause_s or _pause_s(headers.get("retry-after", ""), headers)


def reset_s(headers: Mapping[str, str]) -> float | None:
    """Seconds until every limit of which nothing is known to be left is reset, at most an hour; None where unsaid."""
    pauses = (
        _pause_s(headers.get(f"x-ratelimit-reset{name}", ""), headers)
        for name in _RESETS
        if (_number(headers.get(f"x-ratelimit-remaining{name}", "")) or 0) <= 0
    )
    return max((pause for pause in pauses if pause is not None), default=None)


def _pause_s(text: str, headers: Mapping[str, str]) -> float | None:
    text = text.strip()[:_MAX_LENGTH]
    if _DURATION.fullmatch(text):
        return _sensible(sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text)))
    if (number := _number(text)) is None:
        moment_s = _date_s(text)
    elif number < _EPOCH_S:
        return _sensible(number)
    else:
        moment_s = number if number < _EPOCH_MS else number / 1000
    now_s = _date_s(headers.get("date", ""))
    return None if moment_s is None or now_s is None else _sensible(moment_s - now_s)


def _sensible(seconds: float) -> float | None:
    return min(seconds, _MAX_S) if 0 < seconds < float("inf") else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _date_s(text: str) -> float | None:
    """Since the epoch; of HTTP's spelling or ISO's, in UTC where no zone is given."""
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            date = read(text[:_MAX_LENGTH])
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, TypeError, IndexError):
            continue
    return None
