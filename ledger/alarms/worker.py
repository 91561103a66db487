"""The process that evaluates the alarms of a ledger: `python -m ledger.alarms.worker DIR`.

What it has counted follows from the entries of the last windows, which it reads again at its start.
Its own files have the position, when each group fired last (`fired.json`), and what does not follow
from a window (`memory.json`): the next number of each recorder, and when each witness cosigned. A
firing goes into the outbox before the position moves, so a kill repeats it, and the log takes an
event with the same id once. On a mirror its sinks take firings from the outbox.
"""

import asyncio
import socket
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from ledger.alarms.config import KIND, AlarmConfig, read_alarms
from ledger.alarms.evaluator import Evaluator, Memory
from ledger.alarms.firing import Firing, firing_event
from ledger.follow.entries import check_position, position_at, read_batch
from ledger.follow.firings import drop_old_firings, is_mirror
from ledger.follow.position import Cursor, FollowerPaths, FollowerState, note_state
from ledger.follow.worker import START_AGAIN_S, keep_following, run_worker
from ledger.object_storage.open_log import open_log
from ledger.runtime.records import CheckedRecord, read_record, write_record
from ledger.runtime.tasks import wait_set
from ledger.store.log import LogStore
from ledger.store.tokens import AccessStore
from ledger_client.runtime.clock import unix_us
from ledger_client.runtime.files import read_limited
from ledger_client.runtime.process_end import end_process
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.times import parse_time
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, Policy, parse_policy, shown

POLL_S: Final = 0.2
BATCH_ENTRIES: Final = 1000
BATCH_BYTES: Final = 8 << 20
FIRED_FILE: Final = "fired.json"
MEMORY_FILE: Final = "memory.json"
SAVE_S: Final = 30.0
"""Seconds between two writes of `memory.json`; entries since then are read again at a start."""

FIRED_REST: Final = 20
"""The least time between two writes of `fired.json`, as a multiple of what the first one took.

One client can have a firing a second of each of 10,000 groups, whose file is 2 MB.
"""

_log = structlog.get_logger("ledger.alarms")


class FiredRecord(CheckedRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `fired.json`: when each alarm and group fired last, in microseconds."""

    v: Literal[1] = 1
    fired: dict[str, int] = msgspec.field(default_factory=dict)


class MemoryRecord(CheckedRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `memory.json`, as of the entries below `next_index`."""

    v: Literal[1] = 1
    next_index: int
    memory: Memory


def read_fired(paths: FollowerPaths) -> dict[str, int]:
    """When each alarm and group fired last. Raises: MalformedError, OSError."""
    return (read_record(paths.root / FIRED_FILE, FiredRecord) or FiredRecord()).fired


def read_memory(paths: FollowerPaths) -> MemoryRecord | None:
    """The stored state that a window doesn't give, None without one. Raises: as `read_record`."""
    return read_record(paths.root / MEMORY_FILE, MemoryRecord)


class AlarmFollower:
    """Evaluates the entries of a log and puts firings into the outbox."""

    def __init__(self, directory: Path, store: LogStore, alarms: dict[str, AlarmConfig]) -> None:
        self._directory: Final = directory
        self._store: Final = store
        self._alarms: Final = alarms
        self._origin: Final = store.origin()
        self._paths: Final = FollowerPaths(directory, KIND, "")
        self._paths.make()
        fired = read_fired(self._paths)
        if not self._paths.position.exists():
            if fired:
                raise MalformedError(
                    f"{self._paths.position} is gone: {self._begin_anew} begins at the log's end"
                )
            # Alarms begin with what is logged from now on; `ledger alarm replay` shows the rest.
            write_record(self._paths.position, position_at(store, store.head().tree_size))
        self._cursor: Final = Cursor(self._paths)
        check_position(store, self._cursor.position, mend=self._begin_anew)
        end = self._cursor.position.next_index
        record = read_memory(self._paths)
        numbered = end if record is None else min(record.next_index, end)
        self._policy: Final = self._read_policy()
        self._evaluator: Final = Evaluator(
            alarms,
            now_us=unix_us(),
            fired=fired,
            memory=None if record is None else record.memory,
            witnesses=_witness_names(self._policy),
            is_whole=numbered == 0,
        )
        self._saved: MemoryRecord | None = record
        self._saved_s = time.monotonic()
        self._note = ""
        self.rest_s = 0.0
        """For how long to wait at the end of the log, because of what the last firings took."""
        self._warm_up(numbered)
        # From here on the entries are read again after a kill, and nothing is known of before.
        self._save_memory(wait_s=0.0)

    def step(self) -> bool:
        """Evaluate a batch; False at the end of the log. Raises: MalformedError, OSError."""
        start = self._cursor.position.next_index
        batch = read_batch(self._store, start, entries_max=BATCH_ENTRIES, bytes_max=BATCH_BYTES)
        self._note_head()
        if not batch:
            self._fire(self._evaluator.tick(unix_us()))
            self._save_memory()
            return False
        self._fire(
            [firing for entry in batch for firing in self._evaluator.feed(entry.index, entry.leaf)]
        )
        self._cursor.move(batch[-1].index + 1, batch[-1].leaf_hash.hex())
        self._save_memory()
        return True

    def close(self) -> None:
        """Store the state for the next start. Raises: OSError."""
        self._save_memory(wait_s=0.0)

    @property
    def _begin_anew(self) -> str:
        """The advice for a person when the position is lost."""
        return f"deleting {self._paths.root} (ledger alarm replay shows what would have fired)"

    def _warm_up(self, numbered: int) -> None:
        """Count the entries of the windows before the position again, without firing.

        `numbered`: the first entry whose numbers are not in the memory.
        """
        end = self._cursor.position.next_index
        counted = first_since(self._store, end, self._evaluator.memory_us)
        start = min(counted, numbered)
        while start < end:
            batch = read_batch(
                self._store,
                start,
                entries_max=min(BATCH_ENTRIES, end - start),
                bytes_max=BATCH_BYTES,
            )
            for entry in batch:
                if entry.index >= counted:
                    self._evaluator.count(entry.index, entry.leaf)
                if entry.index >= numbered:
                    self._evaluator.number(entry.index, entry.leaf)
            start += len(batch)

    def _read_policy(self) -> Policy | None:
        """The policy with the witnesses, if an alarm is about them. Raises: MalformedError."""
        if all(alarm.kind != "witness" for alarm in self._alarms.values()):
            return None
        return parse_policy(read_limited(self._directory / "policy", POLICY_BYTES_MAX))

    def _note_head(self) -> None:
        """Note the cosignatures of the published head, if it has changed."""
        if self._policy is None:
            return
        published = self._store.published()
        if published is None or published.note == self._note:
            return
        self._note = published.note
        # A head that does not meet the policy shows no witness: each of them is missed in time.
        with suppress(MalformedError, VerificationError):
            verified = self._policy.check(published.note)
            times_us = {name: at * 1_000_000 for name, at in verified.cosignatures}
            self._evaluator.saw_head(times_us, now_us=unix_us())

    def _save_memory(self, *, wait_s: float = SAVE_S) -> None:
        if time.monotonic() - self._saved_s < wait_s:
            return
        memory = self._evaluator.memory()
        if memory == Memory():
            return
        record = MemoryRecord(next_index=self._cursor.position.next_index, memory=memory)
        if record != self._saved:
            write_record(self._paths.root / MEMORY_FILE, record)
        self._saved, self._saved_s = record, time.monotonic()

    def _fire(self, firings: list[Firing]) -> None:
        if not firings:
            return
        mirror = socket.gethostname() if is_mirror(self._directory) else ""
        with closing(AccessStore.open(self._directory / "access")) as access:
            # One commit: with one for each, many groups of one client would hold up all alarms.
            access.enqueue_all(
                [
                    firing_event(
                        firing, self._alarms[firing.alarm], origin=self._origin, mirror=mirror
                    )
                    for firing in firings
                ]
            )
            if mirror:
                drop_old_firings(access)
        begun_s = time.monotonic()
        write_record(self._paths.root / FIRED_FILE, FiredRecord(fired=dict(self._evaluator.fired)))
        self.rest_s = FIRED_REST * (time.monotonic() - begun_s)
        _log.info("alarms_fired", alarms=sorted({firing.alarm for firing in firings}))


def _witness_names(policy: Policy | None) -> list[str]:
    """The witnesses of a policy, named as in `VerifiedHead.cosignatures`."""
    return [] if policy is None else [shown(each.name) for each in policy.witnesses]


def first_since(store: LogStore, end: int, memory_us: int) -> int:
    """The first entry that was received within a time before entry `end - 1`.

    Cost: as `first_received`.
    """
    return first_received(store, end, received_us(store, end - 1) - memory_us) if end else 0


def first_received(store: LogStore, end: int, since_us: int) -> int:
    """The first of the entries below `end` that was received at a time or later, `end` if none.

    The times of receipt never run backwards along the log. Cost: a leaf for each bit of `end`.
    """
    start = min(store.minimum_index, end)
    return bisect_left(range(end), since_us, start, key=lambda index: received_us(store, index))


def received_us(store: LogStore, index: int) -> int:
    """When an entry was received. Raises: MalformedError when it can't be read."""
    leaf = store.leaf(index)
    if leaf is None:
        raise MalformedError(f"the log has no entry {index}")
    return parse_time(parse_leaf(leaf).received.time)


async def run(directory: Path, stop: asyncio.Event) -> None:
    """Evaluate until `stop` is set; what fails is tried again."""
    paths = FollowerPaths(directory, KIND, "")
    error_before = ""

    def note_success() -> None:
        nonlocal error_before
        error_before = ""
        note_state(paths, FollowerState())

    def note_failure(error: str) -> float:
        nonlocal error_before
        if error != error_before:
            error_before = error
            _log.warning("alarms_fail", reason=error)
            note_state(paths, FollowerState(error=error, since_unix_s=unix_us() // 1_000_000))
        return START_AGAIN_S

    await keep_following(
        paths, stop, lambda: _follow(directory, stop, note_success), on_failure=note_failure
    )


async def _follow(directory: Path, stop: asyncio.Event, note_success: Callable[[], None]) -> None:
    alarms = read_alarms(directory)
    with closing(open_log(directory / "log")) as store:
        follower = AlarmFollower(directory, store, alarms)
        has_more = follower.step()
        note_success()
        while not stop.is_set():
            if not has_more:
                wait_s, follower.rest_s = max(POLL_S, follower.rest_s), 0.0
                if await wait_set(stop, wait_s):
                    break
            has_more = follower.step()
        follower.close()


def main() -> None:
    """Run the alarms of the folder that the command line names."""
    run_worker(partial(run, Path(sys.argv[1])))


if __name__ == "__main__":
    main()
    end_process(0)
