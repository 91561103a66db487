"""The journal export format, as `journalctl -o export` writes it: read into the fields of entries.

    __REALTIME_TIMESTAMP=1790000000123456
    MESSAGE=Accepted publickey for jo
    COREDUMP                                  a name alone: then 8 bytes, the length in
    <length><bytes>                           little-endian, and so many bytes follow
                                              an empty line ends the entry

A value that is UTF-8 is a text, another one a list of its bytes, and a field that comes several
times a list of its values: as `journalctl -o json` has them.

Source: https://systemd.io/JOURNAL_EXPORT_FORMATS/
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

from ledger_core.tlog.errors import MalformedError

_LENGTH_BYTES = 8


def read_entries(plain: BinaryIO, bytes_max: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each entry, and the number of its first line; a line break inside a value counts too.

    Raises: MalformedError for a file that ends inside a value, and for an entry that is too long.
    """
    number = 1
    first = number
    entry: dict[str, Any] = {}
    left = bytes_max
    while line := plain.readline(left + 1):
        left -= len(line)
        if left < 0:
            raise MalformedError(f"line {number}: an entry has more than {bytes_max} bytes")
        number += 1
        name, has_value, value = line.removesuffix(b"\n").partition(b"=")
        if name and not has_value:
            value = _read_value(plain, left, number - 1)
            left -= len(value)
            number += value.count(b"\n") + 1
        if name:
            _add(entry, name.decode(errors="backslashreplace"), value)
            continue
        if entry:
            yield first, entry
        entry, first, left = {}, number, bytes_max
    if entry:
        yield first, entry


def _read_value(plain: BinaryIO, bytes_max: int, number: int) -> bytes:
    length = int.from_bytes(plain.read(_LENGTH_BYTES), "little")
    if length > bytes_max:
        raise MalformedError(f"line {number}: a value of {length} bytes is too long")
    value = plain.read(length)
    if len(value) < length or plain.read(1) != b"\n":
        raise MalformedError(f"line {number}: the file ends inside a value, or a length is wrong")
    return value


def _add(entry: dict[str, Any], name: str, value: bytes) -> None:
    try:
        added: Any = value.decode()
    except UnicodeDecodeError:
        added = list(value)
    if name not in entry:
        entry[name] = added
        return
    before = entry[name]
    # The values of a field that came several times are in a list of their own.
    several = before if isinstance(before, _Values) else _Values([before])
    several.append(added)
    entry[name] = several


class _Values(list[Any]):
    """The values of a field that comes several times, unlike the bytes of one value."""
