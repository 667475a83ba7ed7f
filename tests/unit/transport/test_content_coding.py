"""Bodies that are compressed though identity was requested: every coding, any split, decompression bombs."""

import gzip
import zlib
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import UpstreamFailed
from tidegate.transport.content_coding import CODINGS, Decoder, decode, decoder_for

TEXT = b'{"choices": [{"message": {"content": "Hi"}}]}'
EVENTS = b'data: {"choices": []}\n\n' * 3 + b"data: [DONE]\n\n"
PIECE = 256 * 1024
SLACK = 1024 * 1024  # eight blocks of zstd


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def members(data: bytes) -> bytes:
    """Compress each line as a gzip member of its own, as some hosts do that flush after each event."""
    return b"".join(map(gzip.compress, data.splitlines(keepends=True)))


def frames(data: bytes) -> bytes:
    return b"".join(map(zstd, data.splitlines(keepends=True)))


BODIES = {
    "gzip": (["gzip"], gzip.compress),
    "x-gzip": (["x-gzip"], gzip.compress),
    "GZIP": ([" GZIP "], gzip.compress),
    "unlabelled gzip": ([], gzip.compress),
    "gzip labelled identity": (["identity"], gzip.compress),
    "gzip labelled utf-8": (["utf-8"], gzip.compress),
    "gzip labelled zstd": (["zstd"], gzip.compress),
    "gzip labelled deflate": (["deflate"], gzip.compress),
    "gzip, gzip": (["gzip, gzip"], lambda data: gzip.compress(gzip.compress(data))),
    "gzip and gzip": (["gzip", "gzip"], lambda data: gzip.compress(gzip.compress(data))),
    "gzip twice, labelled once": (["gzip"], lambda data: gzip.compress(gzip.compress(data))),
    "gzip once, labelled twice": (["gzip, gzip"], gzip.compress),
    "members": (["gzip"], members),
    "deflate": (["deflate"], zlib.compress),
    "raw deflate": (["deflate"], raw_deflate),
    "deflate, gzip": (["deflate, gzip"], lambda data: gzip.compress(zlib.compress(data))),
    "gzip, deflate": (["gzip, deflate"], lambda data: zlib.compress(gzip.compress(data))),
    "zstd": (["zstd"], zstd),
    "unlabelled zstd": ([], zstd),
    "frames": (["zstd"], frames),
    "gzip, zstd": (["gzip, zstd"], lambda data: zstd(gzip.compress(data))),
    "labelled gzip, and plain": (["gzip"], bytes),
    "labelled deflate, and plain": (["deflate"], bytes),
    "labelled br, and plain": (["br"], bytes),
    "labelled zstd, and plain": (["zstd"], bytes),
    "labelled utf-8": (["utf-8"], bytes),
    "plain": ([], bytes),
}


def decode_in_reads(labels: list[str], *pieces: bytes) -> bytes:
    decoder = decoder_for(labels, pieces[0])
    if decoder is None:
        return b"".join(pieces)
    decoded = [piece for data in pieces for piece in decoder.feed(data)]
    return b"".join([*decoded, *decoder.close()])


@pytest.mark.parametrize("body", [TEXT, EVENTS, b"{}", b"<html>no</html>"], ids=["JSON", "events", "small", "page"])
@pytest.mark.parametrize("kind", BODIES)
def test_every_coding_is_decoded(kind, body):
    labels, compress = BODIES[kind]
    assert b"".join(decode(labels, compress(body))) == body


@given(st.sampled_from(sorted(BODIES)), st.sampled_from([TEXT, EVENTS]), st.lists(st.integers(1, 300), max_size=8))
def test_the_events_do_not_depend_on_where_reads_end(kind, body, cuts):
    labels, compress = BODIES[kind]
    data = compress(body)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    assert decode_in_reads(labels, *(data[start:end] for start, end in zip([0, *ends], ends, strict=False))) == body


@pytest.mark.parametrize("kind", ["gzip", "unlabelled gzip", "raw deflate", "gzip, gzip", "labelled gzip, and plain"])
def test_a_body_may_arrive_byte_by_byte(kind):
    labels, compress = BODIES[kind]
    assert decode_in_reads(labels, *(bytes([byte]) for byte in compress(EVENTS))) == EVENTS


@pytest.mark.parametrize("text", [b"(no", b"(", b"(\xb5", b"\x1f", b"(not JSON, but told in words)"])
def test_a_body_with_the_first_magic_byte_only_is_unchanged(text):
    assert decode_in_reads([], text) == text


def test_an_event_is_decoded_as_soon_as_it_was_flushed():
    compressor = zlib.compressobj(wbits=31)
    decoder = decoder_for(["gzip"], b"\x1f\x8b")
    for number in range(3):
        event = b'data: {"n": %d}\n\n' % number
        data = compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert b"".join(decoder.feed(data)) == event


@pytest.mark.parametrize("kind", ["gzip", "deflate", "raw deflate", "zstd"])
def test_a_truncated_body_is_decoded_as_far_as_it_goes(kind):
    """The code that parses the body decides whether that is enough."""
    labels, compress = BODIES[kind]
    data = compress(bytes(range(256)) * 40)
    decoded = decode_in_reads(labels, data[: len(data) // 2])
    assert (bytes(range(256)) * 40).startswith(decoded)


def test_bytes_after_the_end_are_not_part_of_the_body():
    assert decode_in_reads(["gzip"], gzip.compress(TEXT) + b"\0" * 100) == TEXT
    assert decode_in_reads(["deflate"], zlib.compress(TEXT) + b"more") == TEXT
    assert decode_in_reads(["zstd"], zstd(TEXT) + b"more") == TEXT


# --- what cannot be decoded ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["br", "zstd"])
def test_a_coding_without_its_library_is_named_in_the_error(name):
    def missing():
        raise ImportError(name)

    decoder = Decoder([name], codings={**CODINGS, name: missing})
    with pytest.raises(UpstreamFailed, match=rf"compressed \({name}\), which is not supported") as caught:
        list(decoder.feed(zstd(TEXT) if name == "zstd" else b"\x1b\x0b\x00" * 9))
    assert caught.value.may_try_another_target


def test_an_unsupported_coding_is_named():
    with pytest.raises(UpstreamFailed, match=r"\(compress\)"):
        decode_in_reads([], b"\x1f\x9d\x90" + b"x" * 20)


@pytest.mark.parametrize(
    ("labels", "body"),
    [
        (["gzip"], gzip.compress(TEXT, mtime=0)[:-8] + b"\0" * 8),
        (["gzip"], b"\x1f\x8b\xff" + b"x" * 20),
        (["deflate"], b"\xff" * 20),
        (["zstd"], zstd(TEXT)[:6] + b"\xff" * 20),
    ],
    ids=["gzip's end", "gzip's head", "deflate", "zstd"],
)
def test_broken_compressed_data_are_an_upstream_failure(labels, body):
    with pytest.raises(UpstreamFailed, match="compressed"):
        decode_in_reads(labels, body)


def test_the_number_of_layers_is_limited():
    body = TEXT
    for _ in range(5):
        body = gzip.compress(body)
    with pytest.raises(UpstreamFailed, match="more than 4 times"):
        decode_in_reads([], body)


@pytest.mark.parametrize("compress", [gzip.compress, zstd, members], ids=["gzip", "zstd", "members"])
def test_a_decompression_bomb_is_decoded_in_pieces_of_limited_size(compress):
    """So the reader can stop when the size is over its limit."""
    body = compress(b"\0" * (1 << 26))
    decoder = decoder_for([], body)
    sizes = [len(piece) for piece in decoder.feed(body)]
    assert sum(sizes) == 1 << 26
    assert max(sizes) <= PIECE + SLACK


def test_compressed_bytes_that_decode_to_nothing_are_limited():
    decoder = decoder_for(["gzip"], b"\x1f\x8b")
    empty = gzip.compress(b"") * 5000
    with pytest.raises(UpstreamFailed, match="decode to nothing"):
        for _ in range(20):
            assert list(decoder.feed(empty)) == []


LABELS = st.lists(st.sampled_from(["gzip", "deflate", "br", "zstd", "x-gzip", "identity", "?", "", "gzip;q=1"]))
STARTS = st.sampled_from([b"", b"\x1f\x8b", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x78\x9c", gzip.compress(TEXT)])


@given(LABELS, STARTS, st.binary(min_size=1, max_size=200), st.integers(0, 200))
@settings(max_examples=300)
def test_any_bytes_are_decoded_or_an_upstream_failure(labels, start, rest, cut):
    data = start + rest
    pieces = [piece for piece in (data[:cut], data[cut:]) if piece]
    with suppress(UpstreamFailed):
        decode_in_reads(labels, *pieces)
