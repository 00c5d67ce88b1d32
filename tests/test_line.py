"""A message's line: every value comes out as text or base64, and its bytes can be got back."""

import base64
import json
import random
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
from harness.process import value_of

import consumer

BLOCK = json.dumps(json.loads((Path(__file__).parent / "data/tron_transaction.json").read_text())).encode()
FRAME = lz4.frame.compress(BLOCK)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"  # a skippable frame of four bytes


def line(value: bytes | None) -> dict[str, Any]:
    """Return a message's line, parsed, after checking its shape."""
    raw = consumer.json_line(3, 42, value)
    assert raw.startswith(b'{"partition": 3, "offset": 42, "value": ')
    assert raw.endswith(b"}\n")
    assert raw.count(b"\n") == 1
    return dict(json.loads(raw))


def text(value: bytes) -> str:
    """Return the text of a value that must come out as text."""
    parsed = line(value)
    assert list(parsed) == ["partition", "offset", "value"]
    return str(parsed["value"])


def binary(value: bytes) -> bytes:
    """Return the bytes of a value that must come out as base64."""
    parsed = line(value)
    assert list(parsed) == ["partition", "offset", "value", "encoding"]
    assert parsed["encoding"] == "base64"
    return base64.b64decode(parsed["value"], validate=True)


@pytest.mark.parametrize("store_size", [True, False])
@pytest.mark.parametrize("content_checksum", [True, False])
@pytest.mark.parametrize("block_checksum", [True, False])
@pytest.mark.parametrize("block_linked", [True, False])
@pytest.mark.parametrize("block_size", [4, 5, 6, 7])  # 64 KB, 256 KB, 1 MB, 4 MB
def test_every_kind_of_lz4_frame(
    block_size: int, block_linked: bool, block_checksum: bool, content_checksum: bool, store_size: bool
) -> None:
    content = BLOCK * 30
    frame = lz4.frame.compress(
        content,
        block_size=block_size,
        block_linked=block_linked,
        block_checksum=block_checksum,
        content_checksum=content_checksum,
        store_size=store_size,
    )
    assert text(frame) == content.decode()


def test_content_that_lz4_cannot_compress() -> None:
    content = random.Random(1).randbytes(300_000)
    assert binary(lz4.frame.compress(content)) == content


def test_frames_one_after_the_other() -> None:
    assert text(FRAME + lz4.frame.compress(b"") + FRAME) == BLOCK.decode() * 2


def test_as_many_frames_as_fit_into_a_message() -> None:
    assert text(lz4.frame.compress(b"") * 90_000) == ""


@pytest.mark.parametrize(
    "value",
    [
        "",
        "plain",
        '{"a": 1}',
        "".join(map(chr, range(32))) + "\x7f",
        'quote " and \\ backslash',
        "a\nb\r\n",
        "\u2028\u2029\x85",
    ],
)
def test_text(value: str) -> None:
    assert text(value.encode()) == value
    assert text(lz4.frame.compress(value.encode())) == value


def test_text_is_printed_as_it_is() -> None:
    raw = consumer.json_line(0, 0, "ü 東 😀 \u2028".encode())
    assert raw.decode() == '{"partition": 0, "offset": 0, "value": "ü 東 😀 \u2028"}\n'


def test_a_tombstone_and_an_empty_value() -> None:
    assert line(None) == {"partition": 3, "offset": 42, "value": None}
    assert line(b"") == {"partition": 3, "offset": 42, "value": ""}


def test_large_values() -> None:
    assert text(b"x" * 200_000) == "x" * 200_000
    assert text(lz4.frame.compress(BLOCK * 80)) == BLOCK.decode() * 80


@pytest.mark.parametrize("value", [b"\xff", b"\x00\xfe", b"\xed\xa0\x80", b"text \xc3", bytes(range(256))])
def test_binary(value: bytes) -> None:
    assert binary(value) == value
    assert binary(lz4.frame.compress(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        FRAME[:-1],
        FRAME[: len(FRAME) // 2],
        FRAME + b"\xff",
        FRAME + b"more",
        FRAME + FRAME[:-4],
        FRAME + SKIPPABLE,
        FRAME + SKIPPABLE + FRAME,
        consumer.LZ4_MAGIC + random.Random(2).randbytes(1000),
    ],
    ids=["cut", "half", "a byte after", "bytes after", "second cut", "skippable after", "skippable between", "random"],
)
def test_what_is_no_whole_frame_keeps_its_bytes(value: bytes) -> None:
    assert binary(value) == value


def test_a_skippable_frame_is_no_lz4_frame() -> None:
    assert binary(SKIPPABLE + FRAME) == SKIPPABLE + FRAME


def test_the_magic_number_alone_is_text() -> None:
    assert text(consumer.LZ4_MAGIC) == '\x04"M\x18'


def test_a_size_forged_in_the_header() -> None:
    forged = bytearray(FRAME)
    forged[6:14] = (1 << 40).to_bytes(8, "little")
    for checksum in range(256):  # one of them fits the header
        forged[14] = checksum
        assert binary(bytes(forged)) == forged


def test_a_frame_that_is_cut_short_has_no_part_in_the_next_value(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not one that other tests may have left in disorder.
    monkeypatch.setattr(consumer, "lz4_context", lz4.frame.create_decompression_context())
    content = consumer.LZ4_MAGIC + random.Random(4).randbytes(1000)
    frame = lz4.frame.compress(content)
    cut = frame.index(content)  # it cannot be compressed
    line(frame[:cut])
    assert binary(frame[cut:]) == frame[cut:]  # and not what would end that frame


def test_a_corrupt_frame_comes_out_as_its_bytes_or_as_what_it_decompresses_to() -> None:
    chance = random.Random(3)
    kept = 0
    for _ in range(500):
        broken = bytearray(FRAME)
        broken[chance.randrange(4, len(broken))] ^= 1 << chance.randrange(8)
        decompressor = lz4.frame.LZ4FrameDecompressor()
        try:
            content = decompressor.decompress(bytes(broken))
            whole = decompressor.eof and not decompressor.unused_data
        except RuntimeError:
            whole = False
        kept += not whole
        assert value_of(line(bytes(broken))) == (content if whole else broken)
    assert 0 < kept < 500  # both happened


def test_a_value_may_inflate_to_16_mib_and_no_further() -> None:
    bound = 16 << 20
    assert text(lz4.frame.compress(b" " * bound)) == " " * bound
    for bomb in (
        lz4.frame.compress(bytes(bound + 1)),
        lz4.frame.compress(bytes(bound // 2 + 1)) * 2,
        lz4.frame.compress(bytes(250_000_000)),
    ):
        assert binary(bomb) == bomb
