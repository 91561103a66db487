"""The records that a receiver refused for good: a file of JSON lines beside the sink's position.

    {"check":"5c…","index":17,"leaf_hash":"9f…","reason":"HTTP 400: …","time_unix_s":1795841016}

The entry itself is in the log, so a line is short. `check` is the checksum of the rest of the line.
The number of lines is bounded: when the file is full, the sink waits instead of dropping the next
one, and says so. `ledger sink dead-letters --resend` asks for them to be sent again: the sink
renames the file, so that a kill forgets none.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from ledger.follow.position import ERROR_CHARS_MAX, FollowerPaths, FollowerState
from ledger.runtime.records import CheckedRecord, checked, encode_record, read_record
from ledger_client.runtime.clock import unix_s
from ledger_client.runtime.files import (
    OWNER_ONLY_MODE,
    read_limited,
    sync_directory,
    write_atomically,
)
from ledger_core.tlog.errors import MalformedError, UnavailableError

DEAD_LETTERS_MAX: Final = 10_000
REQUEST_BYTES_MAX: Final = 64
FILE_BYTES_MAX: Final = 2 * DEAD_LETTERS_MAX * 4096
"""Those that are sent again and new ones, each with a reason of escaped characters."""


class DeadLetter(CheckedRecord, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the file."""

    index: int
    leaf_hash: str
    reason: str
    time_unix_s: int


_decoder: Final = msgspec.json.Decoder(DeadLetter)


class DeadLetters:
    """The dead letters of one sink, written by its process alone."""

    def __init__(self, paths: FollowerPaths, *, most: int = DEAD_LETTERS_MAX) -> None:
        """Raises: as `read_all`."""
        read_all(paths)
        self._path: Final = paths.dead
        self._resending: Final = resending_path(paths)
        self._request: Final = _request_path(paths)
        self._most: Final = most
        _cut_torn_line(self._path)
        self._indices: Final = {letter.index for letter in read_letters(self._path)}

    def __len__(self) -> int:
        return len(self._indices)

    def add(self, index: int, leaf_hash: str, reason: str) -> None:
        """Store a dead letter durably, once for each entry.

        Raises: UnavailableError when there are too many, OSError.
        """
        if index in self._indices:
            return
        if len(self._indices) >= self._most:
            raise UnavailableError(
                f"there are {self._most} dead letters, and entry {index} would be one more: mend "
                f"the cause ({reason}), then send them again or discard them"
            )
        letter = DeadLetter(
            index=index,
            leaf_hash=leaf_hash,
            reason=reason[:ERROR_CHARS_MAX],
            time_unix_s=unix_s(),
        )
        append_durably(self._path, encode_record(letter))
        self._indices.add(index)

    def is_request_pending(self) -> bool:
        """Whether a person wants the letters to be sent again, or discarded."""
        return self._request.exists()

    def begin_resend(self) -> list[DeadLetter]:
        """The letters that a person wants to be sent again, and those of an attempt that goes on.

        The file no longer has them. Letters that are to be discarded are, those of such an attempt
        too: a receiver may never take them. Raises: OSError.
        """
        request = read_limited(self._request, REQUEST_BYTES_MAX) if self._request.exists() else b""
        if request == DISCARD.encode():
            self._path.unlink(missing_ok=True)
            self._resending.unlink(missing_ok=True)
        elif request and self._path.exists():
            if self._resending.exists():
                # After a kill between the two, letters that are in both files are sent twice.
                write_atomically(
                    self._resending, _read_file(self._resending) + _read_file(self._path)
                )
                self._path.unlink()
            else:
                self._path.rename(self._resending)
        if request:
            sync_directory(self._path.parent)
            self._indices.clear()
        self._request.unlink(missing_ok=True)
        return read_letters(self._resending)

    def finish(self) -> None:
        """End a resend: each letter of it was confirmed, or is a dead letter again."""
        self._resending.unlink(missing_ok=True)


RESEND: Final = "resend"
DISCARD: Final = "discard"


def request_action(paths: FollowerPaths, request: str) -> None:
    """Ask the sink, which may be running, to send its dead letters again, or to discard them."""
    write_atomically(_request_path(paths), request.encode())


def is_request_pending(paths: FollowerPaths) -> bool:
    """Whether the sink has not yet done what `request_action` asked for."""
    return _request_path(paths).exists()


def read_letters(path: Path) -> list[DeadLetter]:
    """The letters of a file, none when there is no file. Raises: MalformedError, OSError."""
    try:
        letters = _decoder.decode_lines(_read_file(path).rpartition(b"\n")[0])
    except FileNotFoundError:
        return []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"{path}: {error}") from None
    return [checked(each, f"{path}: line {line}") for line, each in enumerate(letters, 1)]


def read_all(paths: FollowerPaths, state: FollowerState | None = None) -> list[DeadLetter]:
    """The letters of a sink, those that are being sent again first.

    `state`: what `state.json` has, which is read if it is not given.
    Raises: MalformedError, also when there are fewer than the state counts; OSError.
    """
    state = state or read_record(paths.state, FollowerState) or FollowerState()
    letters = [*read_letters(resending_path(paths)), *read_letters(paths.dead)]
    if len(letters) < state.dead:
        raise MalformedError(
            f"{paths.dead} has {len(letters)} dead letters, and {state.dead} were kept: it is "
            f"damaged. Delete it and {paths.state.name} to go on without them; the log has their "
            "entries, and `ledger sink rewind` sends them again"
        )
    return letters


def append_durably(path: Path, data: bytes) -> None:
    """Append to a file and make it durable. Raises: OSError."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, OWNER_ONLY_MODE)
    with os.fdopen(descriptor, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_directory(path.parent)


def _cut_torn_line(path: Path) -> None:
    """Remove the part of a line that a kill left at the end of a file."""
    if path.exists() and (data := _read_file(path)) and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def _read_file(path: Path) -> bytes:
    return read_limited(path, FILE_BYTES_MAX)


def resending_path(paths: FollowerPaths) -> Path:
    """The dead letters that are being sent again."""
    return paths.root / "resending.jsonl"


def _request_path(paths: FollowerPaths) -> Path:
    return paths.root / "wish"
