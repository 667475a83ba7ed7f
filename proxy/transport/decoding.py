"""Undoes what a body is compressed with, though we asked for `identity` (RFC 9110, 8.4); no I/O.

gzip and zstd are known by their first bytes: no JSON, no event stream and no page begins with them. So they are undone
whether or not `Content-Encoding` names them, as often as they were applied, and a label without them is passed over.
deflate and br have no such mark, so there the label decides. br and zstd need a library.
"""

import importlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from proxy.errors import UpstreamFailed

_PIECE_BYTES = 256 * 1024  # of output at once, about
_SLICE_BYTES = 4096  # of input at once: at the end of each member zlib copies what comes after it
_ZSTD_SLICE_BYTES = 32  # a block takes 4 bytes at least and is 128 KiB at most
_ZSTD_WINDOW_BITS = 23  # RFC 9659: 8 MiB
_MAX_QUIET_BYTES = 1024 * 1024  # of input without output
_MAX_LAYERS = 4
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MARKS: Mapping[bytes, str] = {_GZIP: "gzip", _ZSTD: "zstd", b"\x1f\x9d": "compress"}
_FIRST_BYTES = frozenset(mark[0] for mark in _MARKS)
_UNMARKED = frozenset({"deflate", "br"})
_LABELS: Mapping[str, str] = {
    "gzip": "gzip",
    "x-gzip": "gzip",
    "deflate": "deflate",
    "br": "br",
    "zstd": "zstd",
    "compress": "compress",
    "x-compress": "compress",
}
# How answers begin that somebody has labelled and not compressed; neither deflate nor br can begin so and hold text.
_TEXT = re.compile(rb"\s*(?:\{\s*[\"}]|\[\s*[{\"]|data:|event:|: |<!|<html)")
_TOLD_BYTES = 16  # so many tell text from deflate or br


class Coding(Protocol):
    """One way to compress, undone."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the data decodes to, piece by piece; to be exhausted. Raises whatever its library does."""


class _Inflate:
    """gzip, of any number of members; and deflate, with or without zlib's frame."""

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._is_over = False
        self._held = b""
        self._member: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _SLICE_BYTES):
            yield from self._feed(data[start : start + _SLICE_BYTES])

    def _feed(self, data: bytes) -> Iterator[bytes]:
        is_full = False
        while (data or is_full) and not self._is_over:
            if self._member is None:
                data, self._held = self._held + data, b""
                if len(data) < 2:
                    self._held = data
                    return
                self._begin(data)
                continue
            piece = self._member.decompress(data, _PIECE_BYTES)
            is_full = len(piece) == _PIECE_BYTES  # then there may be more inside
            data = self._member.unconsumed_tail
            if self._member.eof:
                data, is_full, self._is_over = self._member.unused_data, False, not self._is_gzip
                self._member = None
            if piece:
                yield piece

    def _begin(self, data: bytes) -> None:
        if self._is_gzip:
            self._is_over = not data.startswith(_GZIP)  # something behind the last member: no part of the body
            self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        else:
            is_framed = data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._member = zlib.decompressobj(zlib.MAX_WBITS if is_framed else -zlib.MAX_WBITS)


class _Zstd:
    """zstd, of any number of frames.

    Args:
        begin: makes what decodes one frame: Python's from 3.14 on, or zstandard's.
    """

    def __init__(self, begin: Callable[[], Any]) -> None:
        self._begin = begin
        self._frame: Any = None
        self._is_over = False
        self._held = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        pieces, size = [], 0
        for start in range(0, len(data), _ZSTD_SLICE_BYTES):
            pieces.append(self._decode(data[start : start + _ZSTD_SLICE_BYTES]))
            size += len(pieces[-1])
            if size >= _PIECE_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        if size:
            yield b"".join(pieces)

    def _decode(self, data: bytes) -> bytes:
        piece = b""
        while data and not self._is_over:
            if self._frame is None:
                data, self._held = self._held + data, b""
                if len(data) < len(_ZSTD):
                    self._held = data
                    break
                self._is_over = not data.startswith(_ZSTD)  # something behind the last frame: no part of the body
                self._frame = self._begin()
                continue
            piece += self._frame.decompress(data)
            data = b""
            if self._frame.eof:
                data, self._frame = self._frame.unused_data, None
        return piece


class _Brotli:
    """br; what comes after its end is no part of the body."""

    def __init__(self, decompressor: Any) -> None:  # noqa: ANN401 - the library has no types
        self._decompressor = decompressor

    def feed(self, data: bytes) -> Iterator[bytes]:
        while not self._decompressor.is_finished():
            piece = self._decompressor.process(data, output_buffer_limit=_PIECE_BYTES)
            if piece:
                yield piece
            if len(piece) < _PIECE_BYTES and self._decompressor.can_accept_more_data():
                return
            data = b""


def _gzip() -> Coding:
    return _Inflate(is_gzip=True)


def _deflate() -> Coding:
    return _Inflate(is_gzip=False)


def _brotli() -> Coding:
    """Raises `ImportError`: there is none, or one that cannot be told to stop."""
    decompressor = importlib.import_module("brotli").Decompressor()
    if not hasattr(decompressor, "can_accept_more_data"):
        raise ImportError("brotli is older than 1.2")
    return _Brotli(decompressor)


def _zstd() -> Coding:
    """Raises `ImportError`."""
    try:
        zstd = importlib.import_module("compression.zstd")
    except ImportError:
        limited = importlib.import_module("zstandard").ZstdDecompressor(max_window_size=1 << _ZSTD_WINDOW_BITS)
        return _Zstd(limited.decompressobj)
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_BITS}
    return _Zstd(lambda: zstd.ZstdDecompressor(options=options))


CODINGS: Mapping[str, Callable[[], Coding]] = {"gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd}


class Decoder:
    """A body's.

    Args:
        labels: of `Content-Encoding`, in the order in which they were applied.
        codings: by name, what makes them; raises `ImportError` where it cannot.
        layer: how many there are around it.
    """

    def __init__(
        self, labels: Sequence[str], codings: Mapping[str, Callable[[], Coding]] = CODINGS, layer: int = 0
    ) -> None:
        self._labels = [*labels]
        self._codings = codings
        self._layer = layer
        self._held = b""
        self._quiet_bytes = 0
        self._is_plain = False
        self._name = ""
        self._coding: Coding | None = None
        self._inner: Decoder | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the data decodes to, in pieces of bounded size, none of them empty; to be exhausted.

        Raises:
            UpstreamFailed: it cannot be decoded.
        """
        if self._coding is None and not self._is_plain:
            data, self._held = self._held + data, b""
            may_be_marked = any(mark.startswith(data[:4]) for mark in _MARKS)
            if len(data) < _TOLD_BYTES and (self._labels or may_be_marked):
                self._held = data
                return
            self._begin(data)
        yield from self._decode(data)

    def close(self) -> Iterator[bytes]:
        """The same, of what was too little to tell what it is: the body has ended. What was cut short is no error."""
        data, self._held = self._held, b""
        if data:
            self._begin(data)
            yield from self._decode(data)
        if self._inner is not None:
            yield from self._inner.close()

    def _begin(self, data: bytes) -> None:
        name = self._choose(data)
        if not name:
            self._is_plain = True
            return
        try:
            self._coding = self._codings[name]()
        except (KeyError, ImportError) as error:
            raise UpstreamFailed(
                f"The upstream's answer is compressed ({name}), which is not supported here."
            ) from error
        if self._layer == _MAX_LAYERS:
            raise UpstreamFailed(f"The upstream's answer is compressed more than {_MAX_LAYERS} times.")
        self._name = name
        self._inner = Decoder(self._labels, self._codings, self._layer + 1)

    def _choose(self, data: bytes) -> str:
        """What was applied last; empty where that is nothing (more)."""
        is_text = _TEXT.match(data) is not None
        if self._labels[-1:] == ["br"] and not is_text:  # it may begin with any bytes
            return self._labels.pop()
        marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "")
        if marked:
            if self._labels[-1:] == [marked]:
                self._labels.pop()
            return marked
        while self._labels:
            if (label := self._labels.pop()) in _UNMARKED and not is_text:
                return label
        return ""

    def _decode(self, data: bytes) -> Iterator[bytes]:
        if self._coding is None or self._inner is None:
            if data:
                yield data
            return
        self._quiet_bytes += len(data)
        try:
            for encoded in self._coding.feed(data):
                for piece in self._inner.feed(encoded):
                    self._quiet_bytes = 0
                    yield piece
        except UpstreamFailed:
            raise
        except Exception as error:  # each library has its own
            raise UpstreamFailed(f"The upstream's answer is compressed ({self._name}), and broken.") from error
        if self._quiet_bytes > _MAX_QUIET_BYTES:
            raise UpstreamFailed(f"The upstream sent more than {_MAX_QUIET_BYTES} compressed bytes that say nothing.")


def decoder_for(encodings: Sequence[str], data: bytes) -> Decoder | None:
    """What decodes a body.

    Args:
        encodings: the values of the `Content-Encoding` headers.
        data: how the body begins; not empty.

    Returns:
        None where there is nothing to decode.
    """
    if not encodings and data[0] not in _FIRST_BYTES:
        return None
    words = [word.partition(";")[0].strip().lower() for line in encodings for word in line.split(",")]
    labels = [_LABELS[word] for word in words if word in _LABELS]
    return Decoder(labels) if labels or data[0] in _FIRST_BYTES else None


def decode(encodings: Sequence[str], body: bytes) -> Iterator[bytes]:
    """A whole body, piece by piece; see `decoder_for` and `Decoder.feed`."""
    decoder = decoder_for(encodings, body) if body else None
    if decoder is None:
        yield body
        return
    yield from decoder.feed(body)
    yield from decoder.close()
