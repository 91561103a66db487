"""The recorder's own events: what it dropped, what was rejected, what it could not read.

    ledger.recorder.dropped    how many, and which numbers of which instance
    ledger.recorder.rejected   which event, by which rule at which field; never the value
    ledger.recorder.damaged    which segment, and how many bytes of it

They go through the spool like any event, with numbers of their own, but are written even past its
limit: otherwise a full spool could not report what it dropped. They are few, since one event
reports many drops.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ledger_client.recording.spool import Spool
from ledger_client.recording.spool_reader import Damage
from ledger_core.api import Problem
from ledger_core.event.model import LIMITS

PREFIX: Final = "ledger.recorder."
DROPPED: Final = f"{PREFIX}dropped"
REJECTED: Final = f"{PREFIX}rejected"
DAMAGED: Final = f"{PREFIX}damaged"

RANGES_MAX: Final = 500
"""Ranges of numbers in one event; more of them make another event."""

PENDING_MAX: Final = 1_000
"""Events that can't be written yet; the oldest are lost beyond that, and only logged."""

Fields = dict[str, Any]


class Lost(NamedTuple):
    """Numbers of an instance whose events are gone, ascending."""

    instance: str
    seqs: list[int]


class MetaEvents:
    """Collects what is to be reported, and writes it to the spool. Guarded by the spool's lock.

    `write` makes an event of some fields and appends it. It may raise OSError.
    """

    def __init__(self, spool: Spool, write: Callable[[Fields], None]) -> None:
        self._instance: Final = spool.instance_dir.instance
        self._lock: Final = spool.lock
        self._write: Final = write
        self._dropped: list[tuple[int, int]] = []  # Ranges, both ends included.
        self._pending: deque[Fields] = deque(maxlen=PENDING_MAX)

    @property
    def is_pending(self) -> bool:
        """Whether something isn't written yet."""
        return bool(self._dropped or self._pending)

    def note_dropped(self, seq: int) -> None:
        """Report that the event of this number is gone."""
        with self._lock:
            _add(self._dropped, seq)

    def note_lost(self, lost: Lost) -> None:
        """Report that events of another instance are gone."""
        ranges: list[tuple[int, int]] = []
        for seq in lost.seqs:
            _add(ranges, seq)
        for at in range(0, len(ranges), RANGES_MAX):
            self._enqueue(_dropped_fields(lost.instance, ranges[at : at + RANGES_MAX]))

    def note_rejected(
        self, event: Fields, problem: Problem, *, seq_of: Fields | None, is_kept: bool
    ) -> None:
        """Report a rejected event. `event` is redacted; `is_kept` as a dead letter.

        `seq_of` names its instance and number, which an event with a mistake has not.
        """
        rejected: Fields = {
            "rule": problem.slug,
            "field": (problem.field or "")[: LIMITS["name"].most],
            "in_dead_letter_file": is_kept,
        }
        for name in ("action", "outcome", "time"):
            if isinstance(event.get(name), str):
                rejected[name] = event[name][: LIMITS["action"].most]
        if seq_of is not None:
            rejected["recorder"] = seq_of
        fields: Fields = {"action": REJECTED, "context": {"rejected": rejected}}
        if isinstance(event.get("id"), str):
            fields["targets"] = [{"type": "event", "id": event["id"][: LIMITS["id"].most]}]
        self._enqueue(fields)

    def note_damaged(self, damage: Damage) -> None:
        """Report a segment that could not be read to its end."""
        self._enqueue({"action": DAMAGED, "context": {"damaged": damage._asdict()}})

    def flush(self) -> None:
        """Write what is pending. Raises: OSError, and what is not written stays pending."""
        with self._lock:
            while self._pending:
                self._write(self._pending[0])
                self._pending.popleft()
            while self._dropped:
                ranges = self._dropped[:RANGES_MAX]
                self._write(_dropped_fields(self._instance, ranges))
                # Window: a signal handler may have dropped more during the write, and so have made
                # the last range longer. That one is not written yet, and stays.
                written = set(ranges)
                self._dropped = [each for each in self._dropped if each not in written]

    def _enqueue(self, fields: Fields) -> None:
        with self._lock:
            self._pending.append(fields)


def _add(ranges: list[tuple[int, int]], seq: int) -> None:
    first = seq
    if ranges and ranges[-1][1] == seq - 1:
        first, _ = ranges.pop()
    ranges.append((first, seq))


def _dropped_fields(instance: str, ranges: list[tuple[int, int]]) -> Fields:
    dropped = {
        "instance": instance,
        "count": sum(last - first + 1 for first, last in ranges),
        "numbers": [list(each) for each in ranges],
    }
    return {"action": DROPPED, "context": {"dropped": dropped}}
