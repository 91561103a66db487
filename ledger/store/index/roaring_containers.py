"""A posting list of one segment, stored as one container of a roaring bitmap.

A segment is 65,536 consecutive entries, which is also the span of a container. Its payload has the
smallest of three forms:

    form 0        array    the offsets, 16 bits each, ascending; at most 4,096 of them
    form 0xFFFF   bitset   8,192 bytes, bit i for offset i; more than 4,096 of them
    form n        runs     u16 n, then n pairs of u16: the first offset of a run, its length − 1

A header in front of the containers of many segments makes one bitmap of them, without touching an
offset in Python. All integers are little-endian, as in files of roaring bitmaps.

Source: the portable format, github.com/RoaringBitmap/RoaringFormatSpec.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from pyroaring import BitMap

SEGMENT_ENTRIES_MAX: Final = 1 << 16
ARRAY_OFFSETS_MAX: Final = 4096
FORM_ARRAY: Final = 0
FORM_BITSET: Final = 0xFFFF
FORM_LOOSE: Final = -1
"""Only in memory: 16-bit offsets in any order, some possibly twice."""

_BITSET_BYTES = 8192
_OFFSET_BYTES = 2
_RUN_BYTES = 4
_DESCRIPTOR_BYTES = 4
_POSITION_BYTES = 4
_COOKIE = 12346
_COOKIE_RUNS = 12347
_NO_POSITIONS_BELOW = 4

_HEAD = struct.Struct("<II")
_RUNS_HEAD = struct.Struct("<HH")
_U16 = struct.Struct("<H")
_ONE_RUN = struct.Struct("<HHH")


class Container(NamedTuple):
    """The offsets of one posting list in one segment: `cardinality` of them, at least one."""

    cardinality: int
    form: int
    payload: bytes


def payload_bytes(*, cardinality: int, form: int) -> int:
    """The length of the payload of a container."""
    if form == FORM_ARRAY:
        return cardinality * _OFFSET_BYTES
    if form == FORM_BITSET:
        return _BITSET_BYTES
    return _U16.size + form * _RUN_BYTES


def to_little_endian(numbers: "array[int]") -> "array[int]":
    """Swap the bytes of integers to or from the stored order, in place; returns its argument."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def from_little_endian(data: bytes) -> "array[int]":
    """The 16-bit integers in stored bytes."""
    return to_little_endian(array("H", data))


def encode_bitmap(bitmap: BitMap) -> Container:
    """The smallest container for a bitmap whose members, at least one, lie in one container.

    It optimises the bitmap in place.
    """
    bitmap.run_optimize()
    read = read_containers(bitmap)
    return Container(read.counts[0] + 1, read.forms[0], read.payloads[0])


class Containers(NamedTuple):
    """All containers of a bitmap: container i has `counts[i] + 1` members, at `slots[i]`."""

    slots: "array[int]"
    counts: "array[int]"
    forms: "array[int]"
    payloads: list[bytes]


def read_slots(bitmap: BitMap) -> "array[int]":
    """The slots of a bitmap that have containers."""
    return _read_head(bitmap.serialize())[1][::2]


def read_containers(bitmap: BitMap) -> Containers:
    """The containers of a bitmap, each in its present form. Cost: 0.2 µs each."""
    data = bitmap.serialize()
    run_flags, descriptors, at = _read_head(data)
    slots, counts = descriptors[::2], descriptors[1::2]
    count = len(slots)
    if not run_flags or count >= _NO_POSITIONS_BELOW:
        at += _POSITION_BYTES * count
    forms = array("H", bytes(2 * count))
    payloads: list[bytes] = []
    for place, count_less_one in enumerate(counts):
        if run_flags >> place & 1:
            (forms[place],) = _U16.unpack_from(data, at)
            end = at + _U16.size + forms[place] * _RUN_BYTES
        elif count_less_one < ARRAY_OFFSETS_MAX:
            end = at + _OFFSET_BYTES * (count_less_one + 1)
        else:
            forms[place] = FORM_BITSET
            end = at + _BITSET_BYTES
        payloads.append(data[at:end])
        at = end
    return Containers(slots, counts, forms, payloads)


def _read_head(data: bytes) -> "tuple[int, array[int], int]":
    """The bits of containers with runs, slot and count of each container, the header's end."""
    cookie, number = _RUNS_HEAD.unpack_from(data)
    run_flags = 0
    if cookie == _COOKIE_RUNS:
        count = number + 1
        at = _RUNS_HEAD.size + (count + 7) // 8
        run_flags = int.from_bytes(data[_RUNS_HEAD.size : at], "little")
    else:
        _, count = _HEAD.unpack_from(data)
        at = _HEAD.size
    end = at + _DESCRIPTOR_BYTES * count
    return run_flags, from_little_endian(data[at:end]), end


def container_at(payloads: bytes, at: int, *, cardinality: int, form: int) -> Container:
    """The container whose payload begins at `at` among others."""
    end = at + payload_bytes(cardinality=cardinality, form=form)
    return Container(cardinality, form, payloads[at:end])


def whole_container(entries: int) -> Container:
    """The container of the offsets `[0, entries)`, `1 <= entries <= 65,536`."""
    return Container(entries, 1, _ONE_RUN.pack(1, 0, entries - 1))


def assemble(containers: Sequence[tuple[int, Container]]) -> BitMap:
    """One bitmap of containers at ascending slots: offset i in slot s is the member 65,536·s + i.

    Precondition: `0 <= slot < 65,536`, strictly ascending.
    Cost: one copy of the payloads, nothing for each offset.
    """
    if not containers:
        return BitMap()
    count = len(containers)
    descriptors = array("H")
    payloads: list[bytes] = []
    runs = bytearray((count + 7) // 8)
    for number, (slot, (cardinality, form, payload)) in enumerate(containers):
        descriptors.extend((slot, cardinality - 1))
        payloads.append(payload)
        if 0 < form < FORM_BITSET:
            runs[number >> 3] |= 1 << (number & 7)
    has_runs = any(runs)
    head = _HEAD.pack(_COOKIE, count)
    if has_runs:
        head = _RUNS_HEAD.pack(_COOKIE_RUNS, count - 1) + bytes(runs)
    parts = [head, to_little_endian(descriptors).tobytes()]
    if not has_runs or count >= _NO_POSITIONS_BELOW:
        first = len(head) + (_DESCRIPTOR_BYTES + _POSITION_BYTES) * count
        *positions, _end = accumulate(map(len, payloads), initial=first)
        parts.append(to_little_endian(array("I", positions)).tobytes())
    return BitMap.deserialize(b"".join([*parts, *payloads]))


def unite(slots: Iterable[tuple[int, Iterable[Container]]]) -> BitMap:
    """One bitmap of several posting lists at each of ascending slots; lists may be loose.

    The first lists of all slots make one bitmap, the second lists another; C unites these.
    """
    layers: list[list[tuple[int, Container]]] = []
    loose: list[tuple[int, bytes]] = []
    for slot, containers in slots:
        tight = []
        for container in containers:
            if container.form == FORM_LOOSE:
                loose.append((slot, container.payload))
            else:
                tight.append((slot, container))
        layers += [[] for _ in range(len(tight) - len(layers))]
        for layer, placed in zip(layers, tight, strict=False):
            layer.append(placed)
    bitmaps = [assemble(layer) for layer in layers]
    if loose:
        bitmaps.append(_sort(loose))
    return union_of(bitmaps)


def union_of(bitmaps: Sequence[BitMap]) -> BitMap:
    """The union of any number of bitmaps; of one it is that one."""
    if len(bitmaps) == 1:
        return bitmaps[0]
    return BitMap.union(*bitmaps) if bitmaps else BitMap()


def union(containers: Sequence[Container]) -> Container:
    """The union of posting lists of one segment, at least one; none is loose."""
    if len(containers) == 1:
        return containers[0]
    # Tens of thousands of short lists are sorted together: each by itself would be a bitmap.
    others = [container for container in containers if container.form != FORM_ARRAY]
    arrays = b"".join([each.payload for each in containers if each.form == FORM_ARRAY])
    return encode_bitmap(unite([(0, [*others, loose_container(arrays)] if arrays else others)]))


def loose_container(payload: bytes) -> Container:
    """Offsets in any order as one container."""
    return Container(len(payload) // _OFFSET_BYTES, FORM_LOOSE, payload)


def _sort(loose: Sequence[tuple[int, bytes]]) -> BitMap:
    """The bitmap of offsets in any order at some slots, joined as bytes and sorted in C."""
    lower = b"".join([payload for _, payload in loose])
    upper = b"".join([_U16.pack(slot) * (len(payload) // 2) for slot, payload in loose])
    members = bytearray(2 * len(lower))
    members[0::4], members[1::4] = lower[0::2], lower[1::2]
    members[2::4], members[3::4] = upper[0::2], upper[1::2]
    return BitMap(to_little_endian(array("I", bytes(members))))
