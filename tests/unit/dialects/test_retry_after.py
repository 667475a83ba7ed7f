"""How long a host requests to wait."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.dialects.retry_after import reset_s, retry_after_s

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
NOW_S = 1792567680.0  # the same time


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "1m30s"}, 90),
        ({"retry-after-ms": "2500"}, 2.5),
        ({"retry-after-ms": "2500", "retry-after": "9"}, 2.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after-ms": "-1", "retry-after": "9"}, 9),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": DATE}, 30),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:30 GMT", "date": DATE}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "today"}, None),
        ({"retry-after": "Wed, 21 Oct 99999 07:28:30 GMT", "date": DATE}, None),
        ({"retry-after": "Thu, 21 Oct 2027 07:28:30 GMT", "date": DATE}, 365 * 86400 + 30),
        ({"retry-after": "2026-10-21T07:28:12.5Z", "date": DATE}, 12.5),
        ({"retry-after": "100000"}, 100000),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers, expected):
    """A date is compared with the host's own clock; an invalid value is ignored."""
    assert retry_after_s(headers) == expected


IN_HALF_A_MINUTE = {
    "IMF-fixdate": "Wed, 21 Oct 2026 07:28:30 GMT",
    "RFC 850": "Wednesday, 21-Oct-26 07:28:30 GMT",
    "asctime": "Wed Oct 21 07:28:30 2026",
    "ISO": "2026-10-21T07:28:30Z",
    "seconds since the epoch": "1792567710",
}
NOW = {
    "IMF-fixdate": DATE,
    "RFC 850": "Wednesday, 21-Oct-26 07:28:00 GMT",
    "asctime": "Wed Oct 21 07:28:00 2026",
}


@pytest.mark.parametrize("text", IN_HALF_A_MINUTE.values(), ids=IN_HALF_A_MINUTE)
@pytest.mark.parametrize("date", NOW.values(), ids=NOW)
def test_a_date_of_any_form_is_compared_with_the_hosts_own_clock(text, date):
    """The local clock does not matter."""
    headers = {"retry-after": text, "x-ratelimit-reset": text, "date": date}
    for received_s in (None, NOW_S - 3000, NOW_S + 3000):
        assert retry_after_s(headers, received_s) == reset_s(headers, received_s) == 30


@pytest.mark.parametrize("text", IN_HALF_A_MINUTE.values(), ids=IN_HALF_A_MINUTE)
@pytest.mark.parametrize("date", [{}, {"date": ""}, {"date": "today"}])
def test_without_a_date_header_a_date_is_relative_to_the_time_of_receipt(text, date):
    assert retry_after_s({"retry-after": text} | date, NOW_S) == 30
    assert reset_s({"x-ratelimit-reset-tokens": text} | date, NOW_S) == 30
    assert retry_after_s({"retry-after": text} | date, NOW_S + 31) is None
    assert retry_after_s({"retry-after": text} | date) is None


def test_asctime_has_days_of_one_digit():
    assert retry_after_s({"retry-after": "Sun Nov  1 00:00:09 2026"}, 1793491200.0) == 9


def test_a_leap_second_is_accepted():
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2026 07:28:60 GMT"}, NOW_S) == 59


@pytest.mark.parametrize(
    ("year", "received", "expected"),
    [("26", 2026, 2026), ("76", 2026, 2076), ("77", 2026, 1977), ("99", 2026, 1999), ("05", 2060, 2105)],
)
def test_a_year_of_two_digits_is_at_most_fifty_years_ahead(year, received, expected):
    """RFC 9110, 5.6.7."""
    received_s = datetime(received, 1, 1, tzinfo=UTC).timestamp()
    pause_s = retry_after_s({"retry-after": f"Friday, 01-Jan-{year} 00:00:01 GMT"}, received_s)
    ahead_s = datetime(expected, 1, 1, 0, 0, 1, tzinfo=UTC).timestamp() - received_s
    assert pause_s == (ahead_s if ahead_s > 0 else None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("120ms", 0.12),
        ("7.66s", 7.66),
        ("2m59.56s", 179.56),
        ("1h0m0s", 3600),
        ("25h", 90000),
        ("500us", 0.0005),
        ("11.38", 11.38),
        ("1792567700", 20),
        ("1792567700000", 20),
        ("2026-10-21T07:28:20Z", 20),
        ("2026-10-21T09:28:20+02:00", 20),
        ("2026-10-21T07:28:20", 20),
        ("Wed, 21 Oct 2026 07:28:20 GMT", 20),
        ("Wed, 21 Oct 2026 07:28:20 -0000", 20),
        ("0s", None),
        ("-3s", None),
        ("1d", None),
        ("1.2.3s", None),
        ("s", None),
        ("1792567600", None),
    ],
)
@pytest.mark.parametrize("name", ["-requests", "-tokens", "-tokens-minute", ""])
def test_the_reset_headers_of_every_host_are_read(name, text, expected):
    """OpenAI, Groq, Cerebras, OpenRouter, and the hosts that copy Anthropic."""
    assert reset_s({f"x-ratelimit-reset{name}": text, "date": DATE}) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("remaining", "expected"),
    [
        ({}, 60),
        ({"requests": "0"}, 60),
        ({"tokens": "0"}, 60),
        ({"requests": "3"}, 60),
        ({"tokens": "1"}, 2),
        ({"requests": "0", "tokens": "900"}, 2),
        ({"requests": "3", "tokens": "900"}, None),
        ({"requests": "-1", "tokens": "?"}, 60),
    ],
)
def test_only_limits_that_are_used_up_count(remaining, expected):
    """The latest reset counts. The header for the rest of a limit may be missing or invalid."""
    resets = {"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "1m0s"}
    assert reset_s(resets | {f"x-ratelimit-remaining-{name}": text for name, text in remaining.items()}) == expected


NAMES = ["retry-after", "retry-after-ms", "date", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"]
TEXTS = st.text(max_size=80) | st.from_regex(r"\A[-0-9.:TZ+hms e_]{1,30}\Z") | st.datetimes().map(str) | st.just(DATE)


@given(st.dictionaries(st.sampled_from(NAMES), TEXTS), st.none() | st.floats(0, 4e9))
def test_any_headers_give_a_positive_pause_or_none(headers, received_s):
    for pause_s in (retry_after_s(headers, received_s), reset_s(headers, received_s)):
        assert pause_s is None or 0 < pause_s < float("inf")
