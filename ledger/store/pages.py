"""The pages of a data file of LMDB: which are used, and which its list calls free.

A commit takes the pages that it needs from the list of free pages, which nothing reads before. So
damage to that list makes a commit fail, or overwrite a page that is used: `check_pages` compares
the two sets. It follows the format of LMDB 0.9 on 64 bits, which has no function for that.
"""

import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol

from pyroaring import BitMap

from ledger_core.tlog.errors import MalformedError

META_PAGES: Final = 2
_MAGIC: Final = 0xBEEFC0DE
_HEADER_BYTES: Final = 16
_META: Final = struct.Struct("<16x I 20x I 36x Q 40x Q QQ")
_PAGE: Final = struct.Struct("<Q 2x HH 2x")
_OVERFLOW: Final = struct.Struct("<Q 2x H I")
_NODE: Final = struct.Struct("<HHHH")
_DATABASE_ROOT: Final = struct.Struct("<40x Q")
_BRANCH, _LEAF, _IS_OVERFLOW, _KINDS = 1, 2, 4, 7
_BIG_DATA, _IS_DATABASE = 1, 2
_NO_ROOT: Final = (1 << 64) - 1
_SNAPSHOTS_TRIED: Final = 10


class Snapshot(Protocol):
    """A read transaction; `number`: of the last write that it sees."""

    @property
    def number(self) -> int: ...


class Snapshots(Protocol):
    """An environment of LMDB, which `Environment` is."""

    @property
    def data_file(self) -> Path: ...

    def read(self) -> AbstractContextManager[Snapshot]: ...


class Meta(NamedTuple):
    """One of the two heads of a file."""

    magic: int
    page_bytes: int
    free_root: int
    main_root: int
    last_page: int
    transaction: int


def read_metas(file: BinaryIO) -> list[Meta]:
    """The heads of a file that can be read."""
    metas = [_read_meta(file, 0)]
    if metas[0] is not None:
        metas.append(_read_meta(file, metas[0].page_bytes))
    return [meta for meta in metas if meta is not None and meta.magic == _MAGIC]


def free_pages(file: BinaryIO, meta: Meta) -> BitMap:
    """The pages in the list of free pages, a tree like every database of LMDB.

    Raises: MalformedError when it is damaged; struct.error when the file ends before.
    """
    return _PageReader(file, meta).free()


def check_pages(environment: Snapshots) -> None:
    """Compare the free pages with those that are used. The environment may be written meanwhile.

    Raises: MalformedError. Cost: reads each page of keys, and one of each long value.
    """
    path = environment.data_file
    for _ in range(_SNAPSHOTS_TRIED):
        # While the transaction lasts, no commit takes a page of its snapshot.
        with environment.read() as transaction, path.open("rb") as file:
            metas = [meta for meta in read_metas(file) if meta.transaction == transaction.number]
            # Two commits since the transaction began have overwritten the head.
            if metas:
                _check(_PageReader(file, metas[0]), str(path))
                return


def _check(walk: "_PageReader", path: str) -> None:
    try:
        free = walk.free()
        used = walk.used()
    except struct.error:
        raise MalformedError(f"{path} is damaged: one of its pages can't be read") from None
    except MalformedError as error:
        raise MalformedError(f"{path} is damaged: {error}") from None
    if both := used & free:
        raise MalformedError(f"{path} is damaged: page {both[0]} is used, and is in the free list")


class _PageReader:
    """Reads the trees of one snapshot."""

    def __init__(self, file: BinaryIO, meta: Meta) -> None:
        self._file: Final = file
        self._meta: Final = meta
        self._seen: Final = BitMap(range(META_PAGES))

    def free(self) -> BitMap:
        """The pages in the list of free pages."""
        free = BitMap()
        for page, at, node_flags, key_bytes in self._leaves(self._meta.free_root):
            data = page[at + _NODE.size + key_bytes :]
            if node_flags & _BIG_DATA:
                low, high = struct.unpack_from("<HH", page, at)
                (first,) = struct.unpack_from("<Q", data)
                data = self._overflow(first, low | high << 16)
            (count,) = struct.unpack_from("<Q", data)
            numbers = struct.unpack_from(f"<{count}Q", data, 8)
            before = len(free)
            if numbers and not META_PAGES <= min(numbers) <= max(numbers) <= self._meta.last_page:
                raise MalformedError("the free list has a page that the file has not")
            free.update(numbers)
            if len(free) != before + count:
                raise MalformedError("the free list has a page twice")
        return free

    def used(self) -> BitMap:
        """The pages of all databases, of the list of free pages too, and the two heads.

        After `free`, whose pages it counts.
        """
        roots = [self._meta.main_root]
        while roots:
            for page, at, node_flags, key_bytes in self._leaves(roots.pop()):
                data = at + _NODE.size + key_bytes
                if node_flags & _IS_DATABASE:
                    roots += _DATABASE_ROOT.unpack_from(page, data)
                elif node_flags & _BIG_DATA:
                    (first,) = struct.unpack_from("<Q", page, data)
                    self._overflow(first, 0)
        return self._seen

    def _leaves(self, root: int) -> Iterator[tuple[bytes, int, int, int]]:
        """Each entry of a tree: its page, and the place, flags and length of the key in it."""
        waiting = [] if root == _NO_ROOT else [root]
        while waiting:
            number = waiting.pop()
            page = self._page(number)
            found, flags, lower = _PAGE.unpack_from(page)
            kind = flags & _KINDS
            if found != number or kind not in {_BRANCH, _LEAF}:
                raise MalformedError(f"page {number} is not one of a tree")
            self._add(number, 1)
            for place in range(_HEADER_BYTES, lower, 2):
                (at,) = struct.unpack_from("<H", page, place)
                low, high, node_flags, key_bytes = _NODE.unpack_from(page, at)
                if kind == _BRANCH:
                    waiting.append(low | high << 16 | node_flags << 32)
                else:
                    yield page, at, node_flags, key_bytes

    def _overflow(self, number: int, data_bytes: int) -> bytes:
        """The data of a long value, from the first of its pages on."""
        start = self._start_of(number)
        found, flags, count = _OVERFLOW.unpack(_read_at(self._file, start, _HEADER_BYTES))
        if found != number or flags & _KINDS != _IS_OVERFLOW or not count:
            raise MalformedError(f"page {number} does not begin a long value")
        self._add(number, count)
        return _read_at(self._file, start + _HEADER_BYTES, data_bytes)

    def _add(self, number: int, count: int) -> None:
        before = len(self._seen)
        if number + count > self._meta.last_page + 1:
            raise MalformedError(f"page {number} lies behind the end")
        self._seen.add_range(number, number + count)
        if len(self._seen) != before + count:
            raise MalformedError(f"page {number} is used twice")

    def _page(self, number: int) -> bytes:
        return _read_at(self._file, self._start_of(number), self._meta.page_bytes)

    def _start_of(self, number: int) -> int:
        if number > self._meta.last_page:
            raise MalformedError(f"page {number} lies behind the end")
        return number * self._meta.page_bytes


def _read_meta(file: BinaryIO, offset: int) -> Meta | None:
    file.seek(offset)
    data = file.read(_META.size)
    return Meta(*_META.unpack(data)) if len(data) == _META.size else None


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Raises: struct.error when the file ends before."""
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise struct.error("the file ends here")
    return data
