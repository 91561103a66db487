"""Small files of JSON that a ledger keeps beside its environments, each with one record."""

from pathlib import Path
from typing import TypeVar

import msgspec

from ledger_core.tlog.errors import MalformedError

Record = TypeVar("Record")


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """The record in a file, or None when there is no file.

    Raises: MalformedError for another content, OSError.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedError(f"{path}: {error}") from None
