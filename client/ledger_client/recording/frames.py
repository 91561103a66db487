"""The bytes of a segment file: one line that names it, then frames.

    witnessed-ledger/spool@v1 0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50 1\\n
    frame = length (4 bytes, little endian) ‖ CRC-32 (4 bytes) ‖ payload
    payload = msgpack [number, canonical JSON of the event]

The payload of an event with private values is its envelope (see `encoding`), as it is sent.

The checksum covers the line of the file, the length and the payload. So neither zeros, which a file
system may leave after a power failure, nor a frame of another file is ever taken for an event.

A crash can cut off the last frame, and that event was never recorded: `record` had not returned.
Any other bytes that are no frame are damage, and the frames behind it can't be found again.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple
from zlib import crc32

import msgpack
import msgspec

MAGIC: Final = "witnessed-ledger/spool@v1"
HEADER: Final = struct.Struct("<II")
PAYLOAD_BYTES_MAX: Final = 1 << 20
"""An event has at most 65,535 bytes, and its private values 32 times 16,384."""

ENVELOPE_HEAD: Final = b'{"event":'
FRAME_BYTES_MAX: Final = HEADER.size + PAYLOAD_BYTES_MAX

Rest = Literal["end", "short", "bad"]
"""What follows the last whole frame: nothing, the beginning of a frame, or no frame."""

_LENGTH: Final = struct.Struct("<I")


class Frame(NamedTuple):
    """One event as it is spooled and sent; `end` is the offset behind it."""

    seq: int
    sent_json: bytes
    end: int

    def event(self) -> dict[str, Any]:
        """The event, without the openings of its commitments."""
        value = msgspec.json.decode(self.sent_json)
        event: dict[str, Any] = value["event"] if is_enveloped(self.sent_json) else value
        return event


@dataclass(frozen=True, slots=True)
class Decoded:
    """The whole frames of a piece of a segment, the offset behind them, and what follows there."""

    frames: list[Frame]
    end: int
    rest: Rest


def is_enveloped(sent_json: bytes) -> bool:
    """Whether these bytes are an event with private values: an event's first key is `action`."""
    return sent_json.startswith(ENVELOPE_HEAD)


def format_header(instance: str, number: int) -> bytes:
    """The first line of a segment."""
    return f"{MAGIC} {instance} {number}\n".encode()


def seqs_of_segment(data: bytes) -> list[int]:
    """The numbers of the whole frames of a segment."""
    header = data[: data.find(b"\n") + 1]
    frames = FrameCodec(header).decode(data[len(header) :], start=0, count_max=len(data)).frames
    return [frame.seq for frame in frames]


class FrameCodec:
    """Frames of one segment. Not for two threads at once."""

    __slots__ = ("_pack", "_seed")

    def __init__(self, header: bytes) -> None:
        """`header` is the first line of the segment."""
        self._seed = crc32(header)
        self._pack = msgpack.Packer(autoreset=True).pack

    def encode(self, seq: int, sent_json: bytes) -> bytes:
        """One frame."""
        payload: bytes = self._pack((seq, sent_json))
        length = len(payload)
        checksum = crc32(payload, crc32(_LENGTH.pack(length), self._seed))
        return HEADER.pack(length, checksum) + payload

    def decode(self, data: bytes, *, start: int, count_max: int) -> Decoded:
        """The frames at the beginning of `data`, which stands at offset `start` of the segment."""
        frames: list[Frame] = []
        at = 0
        rest: Rest = "end"
        while at < len(data) and len(frames) < count_max:
            if len(data) - at < HEADER.size:
                rest = "short"
                break
            length, checksum = HEADER.unpack_from(data, at)
            if not 0 < length <= PAYLOAD_BYTES_MAX:
                rest = "bad"
                break
            begin, end = at + HEADER.size, at + HEADER.size + length
            if end > len(data):
                rest = "short"
                break
            payload = data[begin:end]
            if crc32(payload, crc32(data[at : at + _LENGTH.size], self._seed)) != checksum:
                rest = "bad"
                break
            seq, sent_json = msgpack.unpackb(payload)
            frames.append(Frame(seq, sent_json, start + end))
            at = end
        return Decoded(frames, start + at, rest)
