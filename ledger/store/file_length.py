"""Notice a data file of LMDB that was cut short, before a read beyond its end ends the process.

LMDB maps the file into memory. A read of a page that the file does not have is no error, but a
SIGBUS, which no code can catch. So the size of the file is compared with the last page that LMDB
names. A sound file may be shorter: pages that a transaction took and gave back are in the list of
free pages, but were never written. So the free pages beyond the end are subtracted; reading them
follows the format of LMDB 0.9 on 64 bits, which LMDB has no function for.
"""

import struct
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from ledger_core.tlog.errors import MalformedError

UNWRITTEN_PAGES_MAX: Final = 1 << 16
"""More free pages beyond the end than any of our transactions leaves."""

_MAGIC: Final = 0xBEEFC0DE
_HEADER_BYTES: Final = 16
_META: Final = struct.Struct("<16x I 20x I 36x Q 48x QQ")
_PAGE: Final = struct.Struct("<10x HH 2x")
_NODE: Final = struct.Struct("<HHHH")
_BRANCH: Final = 1
_BIG_DATA: Final = 1
_NO_ROOT: Final = (1 << 64) - 1


class _Meta(NamedTuple):
    """One of the two heads of a file: its list of free pages, and its last page."""

    magic: int
    page_bytes: int
    free_root: int
    last_page: int
    transaction: int


def check_length(path: Path) -> None:
    """Compare the size of a data file with the pages that LMDB says it has.

    A file without a readable head is left to LMDB. Raises: MalformedError with both sizes.
    Cost: three reads, unless the file is shorter than its last page.
    """
    with path.open("rb") as file:
        metas = [_read_meta(file, 0)]
        if metas[0] is not None:
            metas.append(_read_meta(file, metas[0].page_bytes))
        found = [meta for meta in metas if meta is not None and meta.magic == _MAGIC]
        if not found:
            return
        meta = max(found, key=lambda each: each.transaction)
        size = file.seek(0, 2)
        missing = range(size // meta.page_bytes, meta.last_page + 1)
        if not missing:
            return
        try:
            is_sound = len(missing) <= UNWRITTEN_PAGES_MAX and _free_pages(file, meta).issuperset(
                missing
            )
        except struct.error:
            is_sound = False
    if not is_sound:
        raise MalformedError(
            f"{path} has {size} bytes, but LMDB says {(meta.last_page + 1) * meta.page_bytes}: "
            "the file was cut short; put back a copy that is whole"
        )


def _read_meta(file: BinaryIO, offset: int) -> _Meta | None:
    file.seek(offset)
    data = file.read(_META.size)
    return _Meta(*_META.unpack(data)) if len(data) == _META.size else None


def _free_pages(file: BinaryIO, meta: _Meta) -> set[int]:
    """The pages in the list of free pages, a tree like every database of LMDB."""
    free: set[int] = set()
    waiting = [] if meta.free_root == _NO_ROOT else [meta.free_root]
    while waiting:
        page = _read_at(file, waiting.pop() * meta.page_bytes, meta.page_bytes)
        flags, lower = _PAGE.unpack_from(page)
        for number in range((lower - _HEADER_BYTES) // 2):
            (at,) = struct.unpack_from("<H", page, _HEADER_BYTES + 2 * number)
            low, high, node_flags, key_bytes = _NODE.unpack_from(page, at)
            if flags & _BRANCH:
                waiting.append(low | high << 16 | node_flags << 32)
                continue
            data, data_bytes = page[at + _NODE.size + key_bytes :], low | high << 16
            if node_flags & _BIG_DATA:
                (first,) = struct.unpack_from("<Q", data)
                data = _read_at(file, first * meta.page_bytes + _HEADER_BYTES, data_bytes)
            (count,) = struct.unpack_from("<Q", data)
            free.update(struct.unpack_from(f"<{count}Q", data, 8))
    return free


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Raises: struct.error when the file ends before."""
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise struct.error("the file ends here")
    return data
