"""Entries and logs for the tests of the store."""

import uuid
from pathlib import Path

from msgspec import UNSET

from ledger.store.log import create_log
from ledger.store.writer import LogWriter, NewEntry
from ledger_core.event.canonical import encode_event, format_leaf
from ledger_core.event.model import Actor, Event
from ledger_core.event.times import format_time
from ledger_core.tlog.checkpoint import Checkpoint, format_checkpoint
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.note import Note, Signer, format_note

ORIGIN = "example.com/audit"
MAP_BYTES = 1 << 28
SIGNER = Signer.generate(ORIGIN, seed=bytes(range(32)))
START_UNIX_US = 1_790_000_000_000_000


def entry(
    number: int, *, reason: str = "", tenant: str = "", time_filled: bool = False
) -> NewEntry:
    """The entry of a number; `reason` makes another event of the same id."""
    event = Event(
        id=str(uuid.UUID(int=number)),
        time=format_time(START_UNIX_US + number + (10**9 if time_filled else 0)),
        actor=Actor(id=f"u_{number % 7}"),
        action="record.viewed",
        outcome="success",
        reason=reason or f"because {number}",
        tenant=tenant or UNSET,
    )
    event_json = encode_event(event)
    leaf = format_leaf(
        event_json=event_json, by="tests", received_time=format_time(START_UNIX_US + number)
    )
    return NewEntry(
        id_bytes=number.to_bytes(16, "big"),
        leaf=leaf,
        leaf_hash=leaf_hash(leaf),
        event_json=event_json,
        time_filled=time_filled,
    )


def entries(start: int, end: int) -> list[NewEntry]:
    """The entries of the numbers `[start, end)`."""
    return [entry(number) for number in range(start, end)]


def new_log(path: Path, *, map_bytes: int = MAP_BYTES) -> LogWriter:
    """An empty log, open for writing."""
    create_log(path, origin=ORIGIN, map_bytes=map_bytes)
    return LogWriter.open(path, map_bytes=map_bytes)


def signed(tree_size: int, root_hash: bytes, *, signer: Signer = SIGNER) -> str:
    """A checkpoint of this head, signed."""
    text = format_checkpoint(Checkpoint(ORIGIN, tree_size, root_hash))
    return format_note(Note(text, (signer.sign(text),)))
