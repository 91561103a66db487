"""Small files of JSON that a ledger keeps beside its environments, each with one record.

A `CheckedRecord` has the SHA-256 of the rest in it, so no flipped bit is read as another number.
"""

import hashlib
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from ledger_client.runtime.files import read_limited, write_atomically
from ledger_core.tlog.errors import MalformedError

RECORD_BYTES_MAX: Final = 256 << 20
"""The longest record is that of the alarms that fired: 256 alarms, with 10,000 groups each."""


class CheckedRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The base of records with a checksum, in hex. Without one: written by an earlier version."""

    check: str = ""


Record = TypeVar("Record")
Checked = TypeVar("Checked", bound=CheckedRecord)


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """The record in a file, or None when there is no file.

    Raises: MalformedError for another content, and more than `RECORD_BYTES_MAX`; OSError.
    """
    try:
        record = msgspec.json.decode(read_limited(path, RECORD_BYTES_MAX), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    if isinstance(record, CheckedRecord):
        return checked(record, str(path))
    return record


def checked(record: Checked, name: str) -> Checked:
    """The record without its checksum. Raises: MalformedError unless that is right or absent."""
    plain = msgspec.structs.replace(record, check="")
    if record.check and record.check != _checksum(plain):
        raise MalformedError(f"{name} has another checksum: it is damaged")
    return plain


def unreadable(path: Path, error: Exception) -> MalformedError:
    """The error for a file that is not the record that it should be."""
    hint = "; a newer version may have written it" if "unknown field" in str(error) else ""
    return MalformedError(f"{path}: {error}{hint}")


def write_record(path: Path, record: CheckedRecord) -> None:
    """Replace a file atomically and durably. Raises: OSError."""
    write_atomically(path, encode_record(record))


def encode_record(record: CheckedRecord) -> bytes:
    """A line of JSON with the record and its checksum."""
    return msgspec.json.encode(msgspec.structs.replace(record, check=_checksum(record))) + b"\n"


def _checksum(record: CheckedRecord) -> str:
    return hashlib.sha256(msgspec.json.encode(record)).hexdigest()
