"""How long a host asks us to wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.pauses import reset_s, retry_after_s

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"  # 1792567680


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
        ({"retry-after": "Thu, 21 Oct 2027 07:28:30 GMT", "date": DATE}, 3600),
        ({"retry-after": "2026-10-21T07:28:12.5Z", "date": DATE}, 12.5),
        ({"retry-after": "100000"}, 3600),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers, expected):
    """A date is held against the host's own clock; what makes no sense is not told; an hour is the most."""
    assert retry_after_s(headers) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("120ms", 0.12),
        ("7.66s", 7.66),
        ("2m59.56s", 179.56),
        ("1h0m0s", 3600),
        ("25h", 3600),
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
def test_every_host_writes_its_resets_in_its_own_way(name, text, expected):
    """OpenAI, Groq, Cerebras, OpenRouter, and those who copy Anthropic."""
    assert reset_s({f"x-ratelimit-reset{name}": text, "date": DATE}) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("left", "expected"),
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
def test_only_the_limits_that_are_used_up_count(left, expected):
    """The later of them; what is left may not be said, or make no sense."""
    resets = {"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "1m0s"}
    assert reset_s(resets | {f"x-ratelimit-remaining-{name}": text for name, text in left.items()}) == expected


NAMES = ["retry-after", "retry-after-ms", "date", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"]
TEXTS = st.text(max_size=80) | st.from_regex(r"\A[-0-9.:TZ+hms e_]{1,30}\Z") | st.datetimes().map(str) | st.just(DATE)


@given(st.dictionaries(st.sampled_from(NAMES), TEXTS))
def test_whatever_the_headers_say_it_is_nothing_or_a_pause(headers):
    for pause_s in (retry_after_s(headers), reset_s(headers)):
        assert pause_s is None or 0 < pause_s <= 3600
