"""Frames: the vectors in every cut, and that no stream makes a deframer hold more than it may."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_client.collect.syslog.framing import COUNT_DIGITS_MAX, Deframer, Frame, strip_count

VECTORS = json.loads(
    (Path(__file__).parent / "vectors" / "frames.json").read_text(encoding="utf-8")
)
FRAME_BYTES_MAX = 16


def deframe(parts: Iterable[bytes]) -> tuple[list[Frame], bytes | None]:
    """All frames, and the rest of a stream that lost its framing."""
    deframer = Deframer(frame_bytes_max=FRAME_BYTES_MAX)
    frames: list[Frame] = []
    for part in parts:
        frames.extend(deframer.feed(part))
        if frames and frames[-1].is_unframed:
            return frames[:-1], frames[-1].data
        assert len(deframer._buffer) <= FRAME_BYTES_MAX
    last = deframer.end()
    return ([*frames, last] if last else frames), None


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["what"]))
def test_a_stream_is_cut_into_the_frames_of_the_vector(vector: dict[str, Any]) -> None:
    stream = vector["stream"].encode()
    expected = [Frame(data.encode(), *others) for data, *others in vector["frames"]]
    rest = vector.get("rest")
    assert deframe([stream]) == (expected, rest.encode() if rest else None)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["what"]))
def test_it_does_not_matter_where_the_network_cuts(vector: dict[str, Any]) -> None:
    stream = vector["stream"].encode()
    frames, rest = deframe([stream])
    for parts in (
        [stream[at : at + 1] for at in range(len(stream))],
        *([stream[:at], stream[at:]] for at in range(len(stream))),
    ):
        frames_again, rest_again = deframe(parts)
        assert frames_again == frames
        # Less of the rest is known when less of it has come.
        assert (rest_again is None) is (rest is None)
        assert rest is None or rest.startswith(rest_again or b"")


@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_counted_messages_come_out_as_they_went_in(messages: list[bytes], one_by_one: bool) -> None:
    messages = [message for message in messages if message.strip(b"\r\n\0")]
    stream = b"".join(b"%d %b" % (len(message), message) for message in messages)
    parts = [stream[at : at + 1] for at in range(len(stream))] if one_by_one else [stream]
    frames, rest = deframe(parts)
    assert rest is None
    for frame, message in zip(frames, messages, strict=True):
        assert frame.data == message[:FRAME_BYTES_MAX].rstrip(b"\r\n\0")
        assert frame.bytes_cut == max(0, len(message) - FRAME_BYTES_MAX)


@given(st.lists(st.binary(max_size=40)))
def test_no_stream_makes_it_fail_in_another_way_or_hold_more_than_its_limit(
    parts: list[bytes],
) -> None:
    assert FRAME_BYTES_MAX > COUNT_DIGITS_MAX
    frames, rest = deframe(parts)
    stream = b"".join(parts)
    kept = sum(len(frame.data) + frame.bytes_cut for frame in frames)
    assert kept + len(rest or b"") <= len(stream)
    assert all(len(frame.data) <= FRAME_BYTES_MAX for frame in frames)


@pytest.mark.parametrize(
    ("datagram", "message"),
    [
        (b"7 <13>abc", b"<13>abc"),
        (b"8 <13>abc\n", b"<13>abc\n"),
        (b"7 <13>abc\n", b"<13>abc\n"),
        (b"9 <13>abc", b"9 <13>abc"),
        (b"7 bottles", b"7 bottles"),
        (b"<13>abc", b"<13>abc"),
    ],
)
def test_an_octet_count_in_a_datagram_is_no_part_of_the_message(
    datagram: bytes, message: bytes
) -> None:
    assert strip_count(datagram) == message
