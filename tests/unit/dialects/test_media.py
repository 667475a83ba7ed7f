"""Media as bytes inside a request, the only form that is sent to an engine."""

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.dialects.media import data_url, plain_base64

PLAIN = "data:image/png;base64,AA=="


@pytest.mark.parametrize(
    "url",
    [
        PLAIN,
        "DATA:Image/PNG;BASE64,AA==",
        " data:image/png;base64,AA==\n",
        "data:image/png;base64,A\r\nA\t==",
        "da\nta:image/png;name=a.png;base64,AA==",
    ],
)
def test_a_data_url_is_rebuilt_in_one_spelling(url):
    assert data_url(url) == PLAIN


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data:",
        "data:,",
        "data:,http://10.0.0.1/",
        "data:text/plain,http://10.0.0.1/",
        "data://10.0.0.1/;base64,AA==",
        "data:/10.0.0.1/a;base64,AA==",
        "data:image/png;base64,AA==?http://10.0.0.1/",
        "data:image/png;base64,http://10.0.0.1/",
        "data:image/png;base64,%68%74%74%70",
        "data%3Aimage/png;base64,AA==",
        "data:image/png;url=http://10.0.0.1/;base64,AA==",
        "http://10.0.0.1/data:image/png;base64,AA==",
        "file:///etc/passwd",
        "/etc/passwd",
        "uuid",
    ],
)
def test_other_urls_are_not_data_urls(url):
    assert data_url(url) is None


def test_base64_may_be_plain_or_in_a_data_url():
    """Some clients send audio as a URL."""
    assert plain_base64("AA==") == plain_base64("data:audio/wav;base64,A A==") == "AA=="
    assert plain_base64("data:video/jpeg;base64,AA==,BB==") == "AA==,BB=="
    assert plain_base64("http://10.0.0.1/a.wav") is None


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXTINF:1,\nhttp://10.0.0.1/a.ts",
        b"\xef\xbb\xbf#extm3u\n",
        b"ffconcat version 1.0\nfile /etc/passwd",
        b"<MPD><BaseURL>http://10.0.0.1/</BaseURL></MPD>",
        b'\n<svg><image href="file:///etc/passwd"/></svg>',
        b"v=0\nc=IN IP4 10.0.0.1\n",
    ],
)
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_playlist_of_urls_is_not_accepted_as_a_video(playlist, encode):
    """Media libraries would open each of these URLs."""
    payload = encode(playlist).decode()
    assert plain_base64(payload) is None
    assert data_url(f"data:video/mp4;base64,{payload}") is None


@given(st.text() | st.from_regex(r"data:[a-z/]{0,9}(;[a-z=]{0,9}){0,2},.{0,20}"))
def test_an_accepted_value_holds_only_base64(text):
    url = data_url(text)
    assert url is None or re.fullmatch(r"data:[a-z0-9.+/-]+;base64,[A-Za-z0-9+/=,_-]*", url)


@given(st.binary())
def test_all_bytes_except_lists_of_urls_pass_unchanged(data):
    payload = base64.b64encode(data).decode()
    assert plain_base64(payload) in (payload, None)
    assert plain_base64(payload) == payload or data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in b"#fF<vV"
