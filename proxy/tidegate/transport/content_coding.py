"""Decompresses bodies that hosts compress though we request `identity` (RFC 9110, 8.4); no I/O.

gzip and zstd data begin with magic bytes, with which no JSON, event stream or HTML page begins. So they are decoded
whether or not `Content-Encoding` names them, in several layers if needed, and a label without the magic bytes is
ignored. deflate and br have no magic bytes, so the label decides. br and zstd need a library.
"""

import importlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from tidegate.errors import UpstreamFailed

_PIECE_BYTES = 256 * 1024  # about the largest size of one piece of output
_SLICE_BYTES = 4096  # of input per call, as zlib copies the rest of the input at the end of each gzip member
_ZSTD_SLICE_BYTES = 32  # of input per call: a block has at least 4 bytes and decodes to 128 KiB at most
_ZSTD_WINDOW_BITS = 23  # RFC 9659: 8 MiB
_MAX_BYTES_WITHOUT_OUTPUT = 1024 * 1024  # of input, in a row
_MAX_LAYERS = 4
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MAGIC_BYTES: Mapping[bytes, str] = {_GZIP: "gzip", _ZSTD: "zstd", b"\x1f\x9d": "compress"}
_FIRST_BYTES = frozenset(magic[0] for magic in _MAGIC_BYTES)
_WITHOUT_MAGIC = frozenset({"deflate", "br"})
_LABELS: Mapping[str, str] = {
    "gzip": "gzip",
    "x-gzip": "gzip",
    "deflate": "deflate",
    "br": "br",
    "zstd": "zstd",
    "compress": "compress",
    "x-compress": "compress",
}
# The beginning of a body that is labelled but not compressed; no deflate or br stream of text begins like this.
_UNCOMPRESSED = re.compile(rb"\s*(?:\{\s*[\"}]|\[\s*[{\"]|data:|event:|: |<!|<html)")
_SNIFFED_BYTES = 16  # enough to tell text from deflate or br


class Coding(Protocol):
    """The decoder of one content coding."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return the decoded pieces; the caller exhausts the iterator. Raises the exceptions of the library."""


class _Inflate:
    """Decodes gzip with any number of members, or deflate with or without zlib's header."""

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
            is_full = len(piece) == _PIECE_BYTES  # then zlib may hold more output
            data = self._member.unconsumed_tail
            if self._member.eof:
                data, is_full, self._is_over = self._member.unused_data, False, not self._is_gzip
                self._member = None
            if piece:
                yield piece

    def _begin(self, data: bytes) -> None:
        if self._is_gzip:
            self._is_over = not data.startswith(_GZIP)  # data after the last member are not part of the body
            self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        else:
            has_zlib_header = data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._member = zlib.decompressobj(zlib.MAX_WBITS if has_zlib_header else -zlib.MAX_WBITS)


class _Zstd:
    """Decodes zstd with any number of frames.

    Args:
        begin: returns the decoder of one frame: Python's own from 3.14 on, or zstandard's.
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
                self._is_over = not data.startswith(_ZSTD)  # data after the last frame are not part of the body
                self._frame = self._begin()
                continue
            piece += self._frame.decompress(data)
            data = b""
            if self._frame.eof:
                data, self._frame = self._frame.unused_data, None
        return piece


class _Brotli:
    """Decodes br; data after its end are not part of the body."""

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
    """Return the decoder for br; raises `ImportError`: the library is missing, or too old to limit its output."""
    decompressor = importlib.import_module("brotli").Decompressor()
    if not hasattr(decompressor, "can_accept_more_data"):
        raise ImportError("brotli is older than 1.2")
    return _Brotli(decompressor)


def _zstd() -> Coding:
    """Return the decoder for zstd; raises `ImportError`: neither Python nor a library provides it."""
    try:
        zstd = importlib.import_module("compression.zstd")
    except ImportError:
        limited = importlib.import_module("zstandard").ZstdDecompressor(max_window_size=1 << _ZSTD_WINDOW_BITS)
        return _Zstd(limited.decompressobj)
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_BITS}
    return _Zstd(lambda: zstd.ZstdDecompressor(options=options))


CODINGS: Mapping[str, Callable[[], Coding]] = {"gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd}


class Decoder:
    """Decodes a body through all its layers.

    Args:
        labels: the content codings named by `Content-Encoding`, in the order in which they were applied.
        codings: functions that return the decoder of a coding, by the coding's name; they raise `ImportError` if its
            library is missing.
        layer: the number of layers around this one.
    """

    def __init__(
        self, labels: Sequence[str], codings: Mapping[str, Callable[[], Coding]] = CODINGS, layer: int = 0
    ) -> None:
        self._labels = [*labels]
        self._codings = codings
        self._layer = layer
        self._held = b""
        self._bytes_without_output = 0
        self._is_plain = False
        self._name = ""
        self._coding: Coding | None = None
        self._inner: Decoder | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return the decoded data in non-empty pieces of limited size; the caller exhausts the iterator.

        Raises:
            UpstreamFailed: the data cannot be decoded.
        """
        if self._coding is None and not self._is_plain:
            data, self._held = self._held + data, b""
            may_be_compressed = any(magic.startswith(data[:4]) for magic in _MAGIC_BYTES)
            if len(data) < _SNIFFED_BYTES and (self._labels or may_be_compressed):
                self._held = data
                return
            self._begin(data)
        yield from self._decode(data)

    def close(self) -> Iterator[bytes]:
        """Decode the rest at the end of the body: data that `feed` held back as too short to recognise the coding.

        A truncated body is no error.
        """
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
        """Return the content coding that was applied last; empty if there is none left."""
        is_text = _UNCOMPRESSED.match(data) is not None
        if self._labels[-1:] == ["br"] and not is_text:  # br may begin with any bytes, also with another's magic bytes
            return self._labels.pop()
        by_magic = next((name for magic, name in _MAGIC_BYTES.items() if data.startswith(magic)), "")
        if by_magic:
            if self._labels[-1:] == [by_magic]:
                self._labels.pop()
            return by_magic
        while self._labels:
            if (label := self._labels.pop()) in _WITHOUT_MAGIC and not is_text:
                return label
        return ""

    def _decode(self, data: bytes) -> Iterator[bytes]:
        if self._coding is None or self._inner is None:
            if data:
                yield data
            return
        self._bytes_without_output += len(data)
        try:
            for encoded in self._coding.feed(data):
                for piece in self._inner.feed(encoded):
                    self._bytes_without_output = 0
                    yield piece
        except UpstreamFailed:
            raise
        except Exception as error:  # each library has exceptions of its own
            raise UpstreamFailed(f"The upstream's answer is compressed ({self._name}), and broken.") from error
        if self._bytes_without_output > _MAX_BYTES_WITHOUT_OUTPUT:
            raise UpstreamFailed(
                f"The upstream sent more than {_MAX_BYTES_WITHOUT_OUTPUT} compressed bytes that decode to nothing."
            )


def decoder_for(encodings: Sequence[str], data: bytes) -> Decoder | None:
    """Return the decoder for a body; None if the body is not compressed.

    Args:
        encodings: the values of the `Content-Encoding` headers.
        data: the beginning of the body; not empty.
    """
    if not encodings and data[0] not in _FIRST_BYTES:
        return None
    names = [name.partition(";")[0].strip().lower() for line in encodings for name in line.split(",")]
    labels = [_LABELS[name] for name in names if name in _LABELS]
    return Decoder(labels) if labels or data[0] in _FIRST_BYTES else None


def decode(encodings: Sequence[str], body: bytes) -> Iterator[bytes]:
    """Return a whole body decoded, in pieces; see `decoder_for` and `Decoder.feed`."""
    decoder = decoder_for(encodings, body) if body else None
    if decoder is None:
        yield body
        return
    yield from decoder.feed(body)
    yield from decoder.close()
