"""Takes secrets out of texts that others wrote."""

import re
from collections.abc import Collection
from functools import lru_cache

_MASK = "***"
_LEAST_CUT = 8  # characters: so much of a secret's beginning, at the end of a text that was cut, is masked too
_LEAST_SPLIT = 16  # characters of a secret that is known with white space in it; a shorter one may be words
_MOST_SLASHES = 8


def mask(text: str, secrets: Collection[str]) -> str:
    """`text` with `***` for each secret in it.

    Also where its characters are percent-encoded or escaped as in JSON, where it is cut, or split over lines.
    """
    if not text:
        return text
    is_escaped, on_one_line = "%" in text or "\\" in text, "".join(text.split())
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        text = text.replace(secret, _MASK)
        if is_escaped or secret in on_one_line:
            text = _escaped(secret).sub(_MASK, text)
        text = _without_beginning(text, secret)
    return text


def _without_beginning(text: str, secret: str) -> str:
    """At the end of the text, which may have been cut; elsewhere half of it is its beginning."""
    half = secret[: max(_LEAST_CUT, len(secret) // 2)]
    at = text.find(half)
    while at >= 0:
        end = at + next(size for size in range(len(secret), 0, -1) if text.startswith(secret[:size], at))
        text = text[:at] + _MASK + text[end:]
        at = text.find(half, at)
    if secret[:_LEAST_CUT] not in text:
        return text
    for size in range(min(len(secret) - 1, len(text)), _LEAST_CUT - 1, -1):
        if text.endswith(secret[:size]):
            return text[:-size] + _MASK
    return text


@lru_cache(maxsize=256)
def _escaped(secret: str) -> re.Pattern[str]:
    r"""The secret with any of its characters written as `%2F`, `%252f`, `\/` or `\u002f`."""
    gap = r"(?:\s|\\+[nrt])*" if len(secret) >= _LEAST_SPLIT else ""
    return re.compile(gap.join(map(_written, secret)))


def _written(character: str) -> str:
    plain = rf"\\{{0,{_MOST_SLASHES}}}{re.escape(character)}"
    if ord(character) > 0x7F:
        return plain
    digits = "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in f"{ord(character):02x}")
    return rf"(?:{plain}|\\{{1,{_MOST_SLASHES}}}u00{digits}|%(?:25)*{digits})"
