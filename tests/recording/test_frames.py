"""Frames: what is written is read back, and what is damaged is never misread."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_client.recording.frames import (
    FRAME_BYTES_MAX,
    FrameCodec,
    format_header,
    seqs_of_segment,
)
from ledger_client.recording.frames import HEADER as LENGTH_AND_CHECKSUM

HEADER = format_header("0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50", 1)
CODEC = FrameCodec(HEADER)
payloads = st.lists(
    st.tuples(st.integers(1, 2**53 - 1), st.binary(max_size=60)), min_size=1, max_size=6
)


def written(events: list[tuple[int, bytes]]) -> bytes:
    return b"".join(CODEC.encode(seq, event_json) for seq, event_json in events)


def read(data: bytes, codec: FrameCodec = CODEC) -> list[tuple[int, bytes]]:
    decoded = codec.decode(data, start=0, count_max=100)
    return [(frame.seq, frame.sent_json) for frame in decoded.frames]


@given(payloads)
def test_what_was_written_is_read_back(events: list[tuple[int, bytes]]) -> None:
    data = written(events)
    decoded = CODEC.decode(data, start=7, count_max=100)
    assert read(data) == events
    assert (decoded.end, decoded.rest) == (7 + len(data), "end")
    assert decoded.frames[-1].end == decoded.end


@given(payloads, st.data())
def test_what_is_cut_off_is_read_as_far_as_it_is_whole(
    events: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    whole = written(events)
    cut = data.draw(st.integers(0, len(whole)))
    found = read(whole[:cut])
    assert found == events[: len(found)]
    assert len(written(events[: len(found) + 1])) > cut or len(found) == len(events)


@settings(max_examples=300)
@given(payloads, st.data())
def test_a_changed_byte_ends_the_reading_and_changes_nothing_read(
    events: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    whole = bytearray(written(events))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    found = read(bytes(whole))
    assert found == events[: len(found)]
    assert len(found) < len(events)


@given(payloads)
def test_a_frame_of_another_segment_is_no_frame(events: list[tuple[int, bytes]]) -> None:
    other = FrameCodec(format_header("0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50", 2))
    assert read(written(events), other) == []


def test_zeros_are_no_frames() -> None:
    decoded = CODEC.decode(bytes(4096), start=0, count_max=100)
    assert (decoded.frames, decoded.rest) == ([], "bad")


@given(payloads)
def test_the_numbers_of_a_segment_are_those_of_its_frames(events: list[tuple[int, bytes]]) -> None:
    whole = HEADER + written(events)
    assert seqs_of_segment(whole) == [seq for seq, _ in events]
    assert seqs_of_segment(whole[:-1]) == [seq for seq, _ in events[:-1]]


def test_a_frame_beyond_the_limit_is_damage() -> None:
    overhead = len(CODEC.encode(1, bytes(1 << 19))) - (1 << 19)
    largest = FRAME_BYTES_MAX - overhead
    assert read(CODEC.encode(1, bytes(largest))) == [(1, bytes(largest))]
    assert read(CODEC.encode(1, bytes(largest + 1))) == []
    assert LENGTH_AND_CHECKSUM.size + (1 << 20) == FRAME_BYTES_MAX
