"""Rebuilds images, audio and video that a request holds as bytes, the only form in which they are sent to an engine.

An engine opens any URL or path that it reads. Searching values for dangerous content would miss some. So a `data:` URL
is rebuilt from its media type and base64, and any other value is refused.
"""

import base64
import binascii
import re

# Commas are allowed, as some servers accept several padded frames of `video/jpeg` that are separated by commas.
_BASE64 = re.compile(r"[A-Za-z0-9+/=,_-]*")
_DATA_URL = re.compile(
    r"data:(?P<type>[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*)?(?:;[a-z0-9.+-]+=[a-z0-9.+-]+)*;base64,", re.IGNORECASE
)
_MAX_HEAD = 256
_WHITE_SPACE = str.maketrans("", "", " \t\r\n\f\v")
# The first bytes of formats in which media libraries find URLs to open: HLS, FFmpeg's concat, SDP; DASH, SVG and XML.
_URL_LISTS = (b"#extm3u", b"ffconcat", b"v=0", b"<")
_HEAD_CHARS = 64  # of base64


def data_url(address: str) -> str | None:
    """Return a `data:` URL in its plain form, without white space; None if it is no such URL or holds no base64."""
    address = address.translate(_WHITE_SPACE)
    head = _DATA_URL.match(address, 0, _MAX_HEAD)
    if head is None:
        return None
    payload = plain_base64(address[head.end() :])
    return None if payload is None else f"data:{(head['type'] or 'text/plain').lower()};base64,{payload}"


def plain_base64(text: str) -> str | None:
    """Return base64 without white space; None if it is no base64 or its bytes are a list of URLs.

    A `data:` URL is accepted too, as some clients send one in fields for base64.
    """
    text = text.translate(_WHITE_SPACE)
    if (head := _DATA_URL.match(text, 0, _MAX_HEAD)) is not None:
        text = text[head.end() :]
    return text if _BASE64.fullmatch(text) and not _is_url_list(text) else None


def _is_url_list(payload: str) -> bool:
    """Whether base64 begins like one of the formats in `_URL_LISTS`, or its beginning cannot be decoded."""
    head = payload[:_HEAD_CHARS].replace("-", "+").replace("_", "/").replace("=", "").partition(",")[0]
    try:
        begin = base64.b64decode(head + "=" * (-len(head) % 4))
    except binascii.Error:
        return True
    return begin.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_URL_LISTS)
