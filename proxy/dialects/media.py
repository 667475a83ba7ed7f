"""Pictures, sound and video as bytes inside a request: the only form in which an engine gets them.

An engine opens whatever address or path it reads. So nothing is searched for what is bad: an address is rebuilt from
what a `data:` URL with base64 consists of, and what is not rebuilt does not go.
"""

import base64
import binascii
import re

# Some servers take a comma between the frames of `video/jpeg`, each of which may be padded.
_BASE64 = re.compile(r"[A-Za-z0-9+/=,_-]*")
_DATA_URL = re.compile(
    r"data:(?P<type>[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*)?(?:;[a-z0-9.+-]+=[a-z0-9.+-]+)*;base64,", re.IGNORECASE
)
_MAX_HEAD = 256
_WHITE_SPACE = str.maketrans("", "", " \t\r\n\f\v")
# Text that media libraries read as a list of further addresses: HLS, FFmpeg's concat and SDP; DASH, SVG and other XML.
_LISTS = (b"#extm3u", b"ffconcat", b"v=0", b"<")
_HEAD_BYTES = 64


def data_url(address: str) -> str | None:
    """The same `data:` URL without white space and in one spelling; None where it is none, or holds no base64."""
    address = address.translate(_WHITE_SPACE)
    head = _DATA_URL.match(address, 0, _MAX_HEAD)
    if head is None:
        return None
    payload = plain_base64(address[head.end() :])
    return None if payload is None else f"data:{(head['type'] or 'text/plain').lower()};base64,{payload}"


def plain_base64(text: str) -> str | None:
    """Base64 without white space; None where it is none, or what it holds is a list of addresses.

    The bytes may come as a `data:` URL too, as some clients send them.
    """
    text = text.translate(_WHITE_SPACE)
    if (head := _DATA_URL.match(text, 0, _MAX_HEAD)) is not None:
        text = text[head.end() :]
    return text if _BASE64.fullmatch(text) and not _is_list(text) else None


def _is_list(payload: str) -> bool:
    head = payload[:_HEAD_BYTES].replace("-", "+").replace("_", "/").replace("=", "").partition(",")[0]
    try:
        begin = base64.b64decode(head + "=" * (-len(head) % 4))
    except binascii.Error:
        return True
    return begin.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_LISTS)
