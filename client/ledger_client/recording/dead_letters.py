"""The dead-letter file: events that the ledger never takes, a JSON object on each line.

    {"event": {…}, "rejected": {"at": "2026-11-25T02:03:36.123456Z", "by": "ledger",
     "rule": "leaf-too-large", "field": "", "detail": "…", "status": 413}}

When a value is what was refused, it may be a secret, and another one may stand beside it. So the
value at `field` is removed from the event, and so are the fields for free text and values. The
refusals that concern no value (`WHOLE_RULES`), an event that gets no answer, and 413 of a proxy,
whose limit is too low, keep the event whole, to be sent again by hand.

A disk that is full may cut a line short. That letter is reported as not kept, and the next one
begins on a line of its own.
"""

import errno
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from ledger_client.recording.open_segment import write_whole
from ledger_client.recording.spool_dir import is_open_to_all
from ledger_core.api import Problem
from ledger_core.event.model import EventError

FILE_NAME: Final = "dead-letter.jsonl"
BYTES_MAX: Final = 64 * 1024 * 1024

NO_ANSWER: Final = "#no-answer"
"""The problem of an event that gets no answer while others do: `probe`."""

WHOLE_RULES: Final = frozenset(
    {"wrong-tenant", "id-conflict", "id-pruned", "leaf-too-large", "no-answer"}
)
TOO_LARGE: Final = 413
FREE_FIELDS: Final = ("changes", "context", "reason")

_is_index = re.compile(r"[0-9]{1,9}").fullmatch
_split_field = re.compile(r'[^.\[\]"]+|\["(?:[^"\\]|\\.)*"\]|\[[0-9]+\]').findall


class DeadLetters:
    """Appends to the file, which several processes may share."""

    def __init__(self, spool: Path) -> None:
        self._path: Final = spool / FILE_NAME

    def append(
        self,
        event: Mapping[str, Any],
        problem: Problem,
        *,
        by: str,
        at: str,
        is_synced: bool = True,
    ) -> bool:
        """Write one redacted event; False when the file is full.

        Unless it `is_synced`, it may be lost when the machine fails, as an event of a spool that
        isn't synced at each.

        Raises: OSError, also for a file that another user made in a folder that is open to all.
        """
        rejected = {
            "at": at,
            "by": by,
            "rule": problem.slug,
            "field": problem.field or "",
            "detail": problem.detail,
            "status": problem.status,
        }
        line = msgspec.json.encode({"event": event, "rejected": rejected}) + b"\n"
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        fd = os.open(self._path, flags, 0o600)
        try:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid() and is_open_to_all(self._path.parent):
                raise PermissionError(errno.EPERM, "another user made the file", str(self._path))
            if found.st_size + len(line) > BYTES_MAX:
                return False
            if found.st_size and os.pread(fd, 1, found.st_size - 1) != b"\n":
                # Window: a full disk or a crash cut the last line short. This one is readable.
                line = b"\n" + line
            write_whole(fd, line)
            if is_synced:
                os.fdatasync(fd)
        finally:
            os.close(fd)
        return True


def problem_of(error: EventError) -> Problem:
    """A refusal by the recorder's own check, in the form of the ledger's refusals."""
    return Problem(type=f"#{error.rule}", detail=error.message, field=error.field or None)


def redact(event: dict[str, Any], problem: Problem) -> dict[str, Any]:
    """The part of a refused event that may be kept."""
    if problem.slug in WHOLE_RULES or is_of_proxy(problem):
        return event
    kept = {name: value for name, value in event.items() if name not in FREE_FIELDS}
    names = [_member_name(part) for part in _split_field(problem.field or "")]
    return without(kept, names) if names and names[0] in kept else kept


def is_of_proxy(problem: Problem) -> bool:
    """Whether something in front of the ledger took the event for too large."""
    return problem.status == TOO_LARGE and "#" not in problem.type


def without(value: Any, names: list[str]) -> Any:
    """The value without the member at the path `names`; None if the path leaves the value."""
    if not names:
        return value
    name, rest = names[0], names[1:]
    if isinstance(value, dict) and name in value:
        others = {key: member for key, member in value.items() if key != name}
        return {**others, name: without(value[name], rest)} if rest else others
    if isinstance(value, list) and _is_index(name) and int(name) < len(value):
        index = int(name)
        middle = [without(value[index], rest)] if rest else []
        return [*value[:index], *middle, *value[index + 1 :]]
    return None


def _member_name(part: str) -> str:
    """The name in one part of a field: `context`, `[3]`, `["a b"]`.

    The field is what a service said: a name that is no JSON is taken as it stands.
    """
    if part.startswith('["'):
        with suppress(msgspec.MsgspecError):
            return msgspec.json.decode(part[1:-1], type=str)
    return part.strip("[]")
