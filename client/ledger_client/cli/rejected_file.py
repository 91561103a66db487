"""The file beside an imported one with the records that were refused, and why."""

import json
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from ledger_client.collect.importers import Record
from ledger_client.runtime.files import open_new
from ledger_core.event.secrets import mask
from ledger_core.tlog.errors import MalformedError

STANDARD_INPUT: Final = Path("-")

BYTES_MIN: Final = 64 << 20
BYTES_RATIO_MAX: Final = 64
"""Bytes of refused records for each byte of the imported file, beyond the first `BYTES_MIN`. JSON
is compressed to a tenth or so; a file of zeros to a thousandth, and each of them has a reason."""


class RejectedFile:
    """FILE.rejected.jsonl, created with the first refused record; an old one is removed.

    That of standard input is stdin.rejected.jsonl in the current folder.
    """

    def __init__(self, source: Path) -> None:
        name = "stdin" if source == STANDARD_INPUT else source.name
        self.path = source.with_name(f"{name}.rejected.jsonl")
        self._file: BinaryIO | None = None
        self._bytes = 0

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        return self

    def write(self, record: Record, reason: str, field: str | None) -> None:
        """Write one line: the place of the record, why it was refused, and the record itself."""
        if self._file is None:
            self._file = open_new(self.path)
        line: dict[str, Any] = {"line": record.line, "reason": reason}
        if field:
            line["field"] = field
        line["record"] = _without_secrets(record.raw)
        text = json.dumps(line, ensure_ascii=False)
        # Half of a pair, which JSON can name and UTF-8 can not hold, is written as its name.
        data = text.encode(errors="backslashreplace") + b"\n"
        self._bytes += len(data)
        self._file.write(data)

    def check_size(self, read_bytes: int) -> None:
        """Check that it is no larger than a file explains, of which so many bytes were read.

        Raises: MalformedError.
        """
        if self._bytes > BYTES_MIN + BYTES_RATIO_MAX * read_bytes:
            raise MalformedError(
                f"the refused records take {self._bytes:,} bytes, and {read_bytes:,} bytes of the"
                f" file were read: is it of this format? {self.path} has those so far, and"
                " the records behind them were not read"
            )

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()


def _without_secrets(raw: bytes) -> str:
    """Return the text of a record, masked if it has secrets: they don't belong in a file either."""
    text = raw.decode(errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    masked = mask({"record": value})["record"]
    if masked is value:
        return text
    return masked if isinstance(masked, str) else json.dumps(masked, ensure_ascii=False)
