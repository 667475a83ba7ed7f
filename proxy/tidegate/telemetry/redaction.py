"""Masks secrets in texts from outside Tidegate, such as the output of engines or the errors of upstreams."""

import re
from collections.abc import Collection
from functools import lru_cache

_MASK = "***"
_MIN_PREFIX = 8  # characters; a shorter beginning of a secret at the end of a truncated text is not masked
_MIN_SPLIT = 16  # characters of a secret that is masked with white space inside; a shorter one may be words
_MAX_BACKSLASHES = 8


def mask(text: str, secrets: Collection[str]) -> str:
    """`text` with `***` for each secret, also if it is percent-encoded, JSON-escaped, truncated or split over lines."""
    if not text:
        return text
    is_encoded, on_one_line = "%" in text or "\\" in text, "".join(text.split())
    for secret in sorted(secrets, key=len, reverse=True):  # one secret may be part of another
        text = text.replace(secret, _MASK)
        if is_encoded or secret in on_one_line:
            text = _pattern_of(secret).sub(_MASK, text)
        text = _mask_truncated(text, secret)
    return text


def _mask_truncated(text: str, secret: str) -> str:
    """Mask a truncated secret: any beginning of it at the end of the text, elsewhere at least its first half."""
    half = secret[: max(_MIN_PREFIX, len(secret) // 2)]
    at = text.find(half)
    while at >= 0:
        end = at + next(size for size in range(len(secret), 0, -1) if text.startswith(secret[:size], at))
        text = text[:at] + _MASK + text[end:]
        at = text.find(half, at)
    if secret[:_MIN_PREFIX] not in text:
        return text
    for size in range(min(len(secret) - 1, len(text)), _MIN_PREFIX - 1, -1):
        if text.endswith(secret[:size]):
            return text[:-size] + _MASK
    return text


@lru_cache(maxsize=256)
def _pattern_of(secret: str) -> re.Pattern[str]:
    r"""Matches the secret with any of its characters written as `%2F`, `%252f`, `\/` or `\u002f`."""
    gap = r"(?:\s|\\+[nrt])*" if len(secret) >= _MIN_SPLIT else ""
    return re.compile(gap.join(map(_encoded, secret)))


def _encoded(character: str) -> str:
    plain = rf"\\{{0,{_MAX_BACKSLASHES}}}{re.escape(character)}"
    if ord(character) > 0x7F:
        return plain
    digits = "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in f"{ord(character):02x}")
    return rf"(?:{plain}|\\{{1,{_MAX_BACKSLASHES}}}u00{digits}|%(?:25)*{digits})"
