"""Where a follower is in the log, and its state, in a folder of its own: `DIR/sinks/siem/`.

    position.json   the next entry, and the leaf hash of the one before it
    state.json      whether the follower gets on, and since when it does not
    rewind.json     a position that a person has set, until the follower takes it
    paused          there while a person has paused the follower
    place.json      of an archive: the bucket that has the entries before the position
    lock            held by the process that runs

`position.json` is replaced atomically, and only after the entries before it were kept or confirmed:
a kill repeats entries and loses none. The leaf hash tells a log that was put back from a backup,
and then gave the same indices to other entries.
"""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import structlog

from ledger.runtime.records import CheckedRecord, read_record, write_record
from ledger_client.runtime.files import keep_owner

is_name: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}").fullmatch
"""Whether a text is the name of a follower: a table of TOML, a folder and a label."""

ERROR_CHARS_MAX: Final = 500
ANSWER: Final = "; the answer: "
"""In the error of a follower: what comes after it is of the receiver's answer."""

_log = structlog.get_logger("ledger.follow")


class Position(CheckedRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `position.json`; `last_leaf_hash`: in hex, empty for none."""

    v: Literal[1] = 1
    next_index: Annotated[int, msgspec.Meta(ge=0)] = 0
    last_leaf_hash: str = ""


class FollowerState(CheckedRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `state.json`.

    `error`: why the follower doesn't get on, empty when it does; `since_unix_s`: since when.
    `dead`: entries that its receiver refused for good. `expected_lag_s`: for how long entries wait
    by its settings, when nothing hinders it.
    """

    v: Literal[1] = 1
    error: str = ""
    since_unix_s: int = 0
    dead: int = 0
    expected_lag_s: float = 0.0


class FollowerPaths:
    """The folder of one follower, and its files."""

    def __init__(self, directory: Path, kind: str, name: str) -> None:
        """`directory`: the ledger's; `kind`: the name of the follower's row in the list."""
        self.root: Final = directory / kind / name
        self.position: Final = self.root / "position.json"
        self.state: Final = self.root / "state.json"
        self.rewind: Final = self.root / "rewind.json"
        self.paused: Final = self.root / "paused"
        self.place: Final = self.root / "place.json"
        self.lock: Final = self.root / "lock"
        self.dead: Final = self.root / "dead.jsonl"

    def make(self) -> None:
        """Make the folder."""
        for folder in (self.root.parent, self.root):
            if not folder.exists():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                keep_owner(folder)

    def forget(self, *others: Path) -> None:
        """Remove what an earlier follower of this name has left, with other files of its kind."""
        for path in (self.position, self.state, self.rewind, self.paused, self.dead, *others):
            path.unlink(missing_ok=True)


class Cursor:
    """The position of the follower that runs: read at its start, written after each result."""

    def __init__(self, paths: FollowerPaths) -> None:
        """Raises: MalformedError for a position that can't be read, OSError."""
        self.paths: Final = paths
        self.position: Position = read_record(paths.position, Position) or Position()

    def move(self, next_index: int, last_leaf_hash: str) -> None:
        """Write a position durably: the entries before it are kept or confirmed. Raises: OSError"""
        moved = Position(next_index=next_index, last_leaf_hash=last_leaf_hash)
        if moved != self.position:
            write_record(self.paths.position, moved)
            self.position = moved

    def take_rewind(self) -> Position | None:
        """The position that a person has set, which this cursor then has; None for none.

        A kill between the two writes only takes it twice. Raises: MalformedError, OSError.
        """
        set_ = read_record(self.paths.rewind, Position)
        if set_ is None:
            return None
        self.move(set_.next_index, set_.last_leaf_hash)
        self.paths.rewind.unlink(missing_ok=True)
        return set_


def set_rewind(paths: FollowerPaths, next_index: int) -> None:
    """Have a follower begin again at an entry, soon after. Raises: OSError."""
    write_record(paths.rewind, Position(next_index=next_index))


def with_answer(reason: str, answer: str) -> str:
    """An error of a follower, with the beginning of the receiver's answer.

    An answer may repeat what it answers: entries, and the receiver's secret. So it stays in the
    follower's own files, which the host's operators read.
    """
    return f"{reason}{ANSWER}{answer}" if answer else reason


def public_reason(error: str) -> str:
    """An error of a follower without the receiver's answer, for `/readyz` and log lines."""
    return error.partition(ANSWER)[0]


def write_state(paths: FollowerPaths, state: FollowerState) -> None:
    """Replace `state.json`. Raises: OSError."""
    error = state.error[:ERROR_CHARS_MAX]
    write_record(paths.state, msgspec.structs.replace(state, error=error))


def note_state(paths: FollowerPaths, state: FollowerState) -> bool:
    """As `write_state`; a disk that takes nothing is a log line, and the follower goes on.

    The state is for people alone. Returns whether it is written.
    """
    try:
        write_state(paths, state)
    except OSError as error:
        _log.warning("follower_state_not_written", path=str(paths.state), reason=error.strerror)
        return False
    return True


class FollowerReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report on one follower, for the service and for people; `name`: `sinks/siem`."""

    name: str
    next_index: int
    is_paused: bool
    state: FollowerState


def read_report(directory: Path, kind: str, name: str) -> FollowerReport:
    """The report of one follower. Raises: MalformedError, OSError."""
    paths = FollowerPaths(directory, kind, name)
    position = read_record(paths.rewind, Position) or read_record(paths.position, Position)
    return FollowerReport(
        name=f"{kind}/{name}" if name else kind,
        next_index=(position or Position()).next_index,
        is_paused=paths.paused.exists(),
        state=read_record(paths.state, FollowerState) or FollowerState(),
    )
