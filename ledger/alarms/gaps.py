"""Alarms of gaps: numbers of a recorder that are missing, and that nothing explains in time.

A recorder numbers its events from 1. A number that is left out may still come, or be explained by
an event of the recorder, for `window_s` from the event behind it on; then the alarm fires, once for
each gap. As in `ledger gaps`, a recorder is its instance and
the principal that sent its events, so nobody fills the gaps of another one.

The number that is expected next follows from the last event of a recorder, which may be long ago.
So this is kept in `memory.json`, and not read again from the entries of a window. A recorder that
was never seen begins with the number that it is first seen with; at the start of a log, with 1.
"""

from bisect import bisect_right
from collections import deque
from typing import Annotated, Final

import msgspec

from ledger.alarms.config import AlarmConfig
from ledger.alarms.firing import RANGES_MAX, Firing
from ledger.alarms.groups import Group, Groups
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.recorder_numbers import DROPPED, REJECTED, Numbers, Range, explained_numbers
from ledger_core.event.times import parse_time

OPEN_MAX: Final = 10_000
"""Gaps that wait for their numbers; of more, the oldest fire at once."""


class _Recorder(msgspec.Struct, gc=False):
    instance: str
    seq: int


class _Event(msgspec.Struct, gc=False):
    action: str
    recorder: _Recorder | None = None


class _Received(msgspec.Struct, gc=False):
    by: str
    time: str


class _Leaf(msgspec.Struct, gc=False):
    event: _Event
    received: _Received


_decode: Final = msgspec.json.Decoder(_Leaf).decode


class OpenGap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A gap that waits: its numbers, and the time of receipt and index of the event after it."""

    by: str
    instance: str
    ranges: Annotated[tuple[Range, ...], msgspec.Meta(min_length=1)]
    since_us: int
    index: int


class GapMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The state of an alarm of gaps: the next number of each recorder, and the gaps that wait."""

    recorders: tuple[tuple[str, str, Annotated[int, msgspec.Meta(ge=1)]], ...] = ()
    open: tuple[OpenGap, ...] = ()
    is_whole: bool = False
    """Whether it has seen the log from its first entry on."""


class _Gap:
    """A gap whose numbers may still come."""

    def __init__(self, gap: OpenGap) -> None:
        self.recorder: Final = Group(gap.instance, gap.by)
        self.first: Final = gap.ranges[0][0]
        self.numbers: Final = Numbers(gap.ranges)
        self.since_us: Final = gap.since_us
        self.index: Final = gap.index

    def as_record(self) -> OpenGap:
        return OpenGap(
            *(self.recorder.tenant, self.recorder.value, tuple(self.numbers)),
            *(self.since_us, self.index),
        )


class Gaps:
    """One alarm of gaps. The principal takes the place of the tenant of other groups."""

    def __init__(self, name: str, alarm: AlarmConfig, memory: GapMemory) -> None:
        self._name: Final = name
        self._window_us: Final = int(alarm.window_s * 1e6)
        self._is_whole: Final = memory.is_whole
        self._next: Final[Groups[int]] = Groups()
        for by, instance, number in memory.recorders:
            self._next.put(Group(instance, by), number)
        self._waiting: Final[deque[_Gap]] = deque(map(_Gap, memory.open))
        self._of_recorder: Final[dict[Group, list[_Gap]]] = {}
        for gap in self._waiting:
            self._of_recorder.setdefault(gap.recorder, []).append(gap)

    def memory(self) -> GapMemory:
        """The state of this alarm, for the next start."""
        return GapMemory(
            recorders=tuple((group.tenant, group.value, number) for group, number in self._next),
            open=tuple(gap.as_record() for gap in self._waiting if any(gap.numbers)),
            is_whole=self._is_whole,
        )

    def feed(self, index: int, leaf: bytes) -> list[Firing]:
        """The gaps whose time is up with this entry."""
        head = _decode(leaf)
        time_us = parse_time(head.received.time)
        firings = self.tick(time_us)
        recorder, by = head.event.recorder, head.received.by
        if recorder is not None:
            self._note(Group(recorder.instance, by), recorder.seq, index, time_us)
        if head.event.action in {DROPPED, REJECTED}:
            for explained in explained_numbers(parse_leaf(leaf).event):
                if not explained.is_claim:
                    group = Group(explained.instance, by)
                    self._fill(group, explained.first, explained.last)
                    expected = self._next.get(group)
                    if expected is not None and explained.first <= expected <= explained.last:
                        self._next.put(group, explained.last + 1)
        while len(self._waiting) > OPEN_MAX:
            firings += self._fire_first(time_us)
        return firings

    def tick(self, now_us: int) -> list[Firing]:
        """The gaps whose time is up."""
        firings = []
        while self._waiting and now_us - self._waiting[0].since_us >= self._window_us:
            firings += self._fire_first(self._waiting[0].since_us + self._window_us)
        return firings

    def _note(self, group: Group, number: int, index: int, time_us: int) -> None:
        expected = self._next.get(group)
        if expected is None:
            expected = 1 if self._is_whole else number
        if number < expected:
            self._fill(group, number, number)
            return
        self._next.put(group, number + 1)
        if number > expected:
            missing = OpenGap(group.tenant, group.value, ((expected, number - 1),), time_us, index)
            gap = _Gap(missing)
            self._waiting.append(gap)
            self._of_recorder.setdefault(group, []).append(gap)

    def _fill(self, group: Group, first: int, last: int) -> None:
        gaps = self._of_recorder.get(group, [])  # Ascending, as a recorder numbers.
        for gap in gaps[max(0, bisect_right(gaps, first, key=lambda gap: gap.first) - 1) :]:
            if gap.first > last:
                break
            gap.numbers.remove(first, last)

    def _fire_first(self, time_us: int) -> list[Firing]:
        gap = self._waiting.popleft()
        gaps = self._of_recorder[gap.recorder]
        gaps.pop(0)
        if not gaps:
            del self._of_recorder[gap.recorder]
        missing = tuple(gap.numbers)
        if not missing:
            return []
        firing = Firing(
            alarm=self._name,
            group=f"{gap.recorder.tenant} {gap.recorder.value}",
            count=sum(last - first + 1 for first, last in missing),
            indices=(gap.index,),
            time_us=time_us,
            missing=missing[:RANGES_MAX],
        )
        return [firing]
