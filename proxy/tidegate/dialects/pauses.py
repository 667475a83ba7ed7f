"""How long a host asks us to wait, as its headers say it.

`retry-after-ms` and `retry-after` come first; then the `x-ratelimit-reset…` of whatever is used up. Hosts write these
as seconds, as durations (`6m0s`, `7.66s`, `120ms`), as moments since the epoch (seconds, or milliseconds), or as dates
(the three forms of RFC 9110, 5.6.7, and ISO 8601). A moment is compared with the host's own `date` header, as its clock
may differ from ours; if there is none, with the time of receipt.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MAX_LENGTH = 64
_EPOCH_S = 1e9  # a number as large as this is a moment, not a duration
_EPOCH_MS = 1e12
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s|us|µs|μs|ns))+")
_PART = re.compile(r"([\d.]+)(\D+)")
_RFC_850 = re.compile(r"(?P<day>\w+, *\d{1,2}-\w{3}-)(?P<year>\d\d)(?P<time> .+)")
_LEAP_SECOND = re.compile(r":60\b")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
# with nothing after `reset` it is OpenRouter's; Cerebras adds a `-day` or a `-minute`
_RESETS = ("", *(f"-{what}{per}" for what in ("requests", "tokens") for per in ("", "-minute", "-hour", "-day")))


def retry_after_s(headers: Mapping[str, str], received_s: float | None = None) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after`; None where neither says anything sensible.

    `received_s` is the time of receipt in seconds since the epoch; None: unknown.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    pause_s = None if milliseconds is None else _sensible(milliseconds / 1000)
    return pause_s or _pause_s(headers.get("retry-after", ""), headers, received_s)


def reset_s(headers: Mapping[str, str], received_s: float | None = None) -> float | None:
    """Seconds until every limit of which nothing is known to be left is reset; None where unsaid."""
    pauses = (
        _pause_s(headers.get(f"x-ratelimit-reset{name}", ""), headers, received_s)
        for name in _RESETS
        if (_number(headers.get(f"x-ratelimit-remaining{name}", "")) or 0) <= 0
    )
    return max((pause for pause in pauses if pause is not None), default=None)


def _pause_s(text: str, headers: Mapping[str, str], received_s: float | None) -> float | None:
    text = text.strip()[:_MAX_LENGTH]
    if _DURATION.fullmatch(text):
        return _sensible(sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text)))
    if (number := _number(text)) is None:
        moment_s = _date_s(text, received_s)
    elif number < _EPOCH_S:
        return _sensible(number)
    else:
        moment_s = number if number < _EPOCH_MS else number / 1000
    sent_s = _date_s(headers.get("date", ""), received_s)
    now_s = received_s if sent_s is None else sent_s
    return None if moment_s is None or now_s is None else _sensible(moment_s - now_s)


def _sensible(seconds: float) -> float | None:
    return seconds if 0 < seconds < float("inf") else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _date_s(text: str, received_s: float | None) -> float | None:
    """Since the epoch; of HTTP's spellings or ISO's, in UTC where no zone is given."""
    text = _LEAP_SECOND.sub(":59", text[:_MAX_LENGTH])
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            date = read(_with_century(text, received_s))
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, TypeError, IndexError):
            continue
    return None


def _with_century(text: str, received_s: float | None) -> str:
    """An RFC 850 date with a four-digit year: the last such year at most 50 years ahead (RFC 9110, 5.6.7)."""
    if received_s is None or (match := _RFC_850.fullmatch(text)) is None:
        return text
    latest = datetime.fromtimestamp(received_s, UTC).year + 50
    year = latest - (latest - int(match["year"])) % 100
    return f"{match['day']}{year}{match['time']}"
