"""Reads from response headers how long a host requests to wait before the next request.

`retry-after-ms` and `retry-after` come first, then the `x-ratelimit-reset…` of each limit that is used up. Hosts write
these as seconds, as durations (`6m0s`, `7.66s`, `120ms`), as times since the epoch (in seconds or milliseconds), or as
dates (the three forms of RFC 9110, 5.6.7, and ISO 8601). A time is compared with the host's own `date` header, as the
host's clock may differ from the local one; without that header, with the time of receipt.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MAX_LENGTH = 64
_EPOCH_S = 1e9  # a number as large as this is a time since the epoch, not a duration
_EPOCH_MS = 1e12  # a number as large as this is in milliseconds
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s|us|µs|μs|ns))+")
_PART = re.compile(r"([\d.]+)(\D+)")
_RFC_850 = re.compile(r"(?P<day>\w+, *\d{1,2}-\w{3}-)(?P<year>\d\d)(?P<time> .+)")
_LEAP_SECOND = re.compile(r":60\b")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
# The endings of the headers' names. OpenRouter adds nothing after `reset`, Cerebras adds `-day` or `-minute`.
_RESETS = ("", *(f"-{what}{per}" for what in ("requests", "tokens") for per in ("", "-minute", "-hour", "-day")))


def retry_after_s(headers: Mapping[str, str], received_s: float | None = None) -> float | None:
    """Return the seconds from `retry-after-ms` or `retry-after`; None if neither is a positive, finite time.

    Args:
        headers: the response headers by name in lower case.
        received_s: the time of receipt in seconds since the epoch; None: not known.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    pause_s = None if milliseconds is None else _positive_s(milliseconds / 1000)
    return pause_s or _pause_s(headers.get("retry-after", ""), headers, received_s)


def reset_s(headers: Mapping[str, str], received_s: float | None = None) -> float | None:
    """Return the seconds until every used-up limit is reset; None if no header states it.

    A limit counts as used up unless its `x-ratelimit-remaining…` header is a positive number. The arguments are those
    of `retry_after_s`.
    """
    pauses = (
        _pause_s(headers.get(f"x-ratelimit-reset{name}", ""), headers, received_s)
        for name in _RESETS
        if (_number(headers.get(f"x-ratelimit-remaining{name}", "")) or 0) <= 0
    )
    return max((pause for pause in pauses if pause is not None), default=None)


def _pause_s(text: str, headers: Mapping[str, str], received_s: float | None) -> float | None:
    text = text.strip()[:_MAX_LENGTH]
    if _DURATION.fullmatch(text):
        return _positive_s(sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text)))
    if (number := _number(text)) is None:
        time_s = _date_s(text, received_s)
    elif number < _EPOCH_S:
        return _positive_s(number)
    else:
        time_s = number if number < _EPOCH_MS else number / 1000
    sent_s = _date_s(headers.get("date", ""), received_s)
    now_s = received_s if sent_s is None else sent_s
    return None if time_s is None or now_s is None else _positive_s(time_s - now_s)


def _positive_s(seconds: float) -> float | None:
    return seconds if 0 < seconds < float("inf") else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _date_s(text: str, received_s: float | None) -> float | None:
    """Return a date of HTTP or ISO 8601 as seconds since the epoch, in UTC if it has no zone; None if it is invalid."""
    text = _LEAP_SECOND.sub(":59", text[:_MAX_LENGTH])
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            date = read(_with_century(text, received_s))
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, TypeError, IndexError):
            continue
    return None


def _with_century(text: str, received_s: float | None) -> str:
    """Return an RFC 850 date with a four-digit year: the last such year at most 50 years ahead (RFC 9110, 5.6.7)."""
    if received_s is None or (match := _RFC_850.fullmatch(text)) is None:
        return text
    latest = datetime.fromtimestamp(received_s, UTC).year + 50
    year = latest - (latest - int(match["year"])) % 100
    return f"{match['day']}{year}{match['time']}"
