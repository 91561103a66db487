"""Damage to LMDB's list of free pages is named: a commit would overwrite pages that are used."""

import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ledger.store.environment import Environment, create_environment
from ledger.store.pages import Meta, check_pages, free_pages, read_metas
from ledger_core.tlog.errors import MalformedError
from tests.store.entries import MAP_BYTES, entries, new_log

NAMES = [b"rows", b"meta"]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    """An environment with branches, long values, free pages, and a list of them that is long."""
    create_environment(tmp_path / "e", NAMES, meta={}, map_bytes=MAP_BYTES)
    environment = Environment.open(tmp_path / "e", NAMES, readonly=False, map_bytes=MAP_BYTES)
    with closing(environment):
        with environment.read():  # Keeps LMDB from using the pages again, so the list grows.
            for turn in range(12):
                with environment.write() as transaction:
                    for number in range(150):
                        value = bytes(9000 if number % 5 == 0 else 1500) + b"%d" % turn
                        transaction.put(b"rows", number.to_bytes(4, "big"), value)
        yield environment


def newest(environment: Environment) -> Meta:
    with environment.data_file.open("rb") as file:
        return max(read_metas(file), key=lambda meta: meta.transaction)


def overwrite(environment: Environment, offset: int, data: bytes) -> None:
    with environment.data_file.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_sound_pages_pass_while_they_are_written(environment: Environment) -> None:
    for turn in range(30):
        check_pages(environment)
        with environment.write() as transaction:
            transaction.put(b"rows", turn.to_bytes(4, "big"), bytes(5000 * (turn % 3)))
            transaction.delete(b"rows", (turn + 50).to_bytes(4, "big"))
    check_pages(environment)


def test_each_page_is_used_or_free(environment: Environment) -> None:
    meta = newest(environment)
    with environment.data_file.open("rb") as file:
        from ledger.store.pages import _PageReader

        walk = _PageReader(file, meta)
        free = walk.free()
        used = walk.used()
    assert not used & free
    assert len(used) + len(free) == meta.last_page + 1
    assert len(free) > 500


def test_a_log_passes_at_each_size(tmp_path: Path) -> None:
    log = new_log(tmp_path / "log")
    for start in range(0, 3000, 300):
        log.commit(entries(start, start + 300))
        check_pages(log.store.environment)
    log.close()


def test_a_zeroed_list_of_free_pages_is_named(environment: Environment) -> None:
    meta = newest(environment)
    overwrite(environment, meta.free_root * meta.page_bytes, bytes(meta.page_bytes))
    with pytest.raises(MalformedError, match=f"page {meta.free_root} is not one of a tree"):
        check_pages(environment)


def test_a_used_page_in_the_free_list_is_named_before_a_commit_takes_it(
    environment: Environment,
) -> None:
    meta = newest(environment)
    with environment.data_file.open("rb") as file:
        free = free_pages(file, meta)
        file.seek(0)
        data = file.read()
    used = next(page for page in range(2, meta.last_page) if page not in free)
    # A list of free pages is their count, then their numbers, in descending order.
    some = [page for page in free if page not in range(meta.free_root, meta.free_root + 1)][-3:]
    at = data.find(struct.pack("<3Q", *reversed(some)))
    assert at > 0
    overwrite(environment, at, struct.pack("<Q", used))
    with pytest.raises(MalformedError, match=f"page {used} is used, and is in the free list"):
        check_pages(environment)


def test_each_flipped_bit_of_the_list_is_named_or_changes_nothing(
    environment: Environment,
) -> None:
    meta = newest(environment)
    start = meta.free_root * meta.page_bytes
    with environment.data_file.open("rb") as file:
        whole = free_pages(file, meta)
        file.seek(start)
        page = file.read(meta.page_bytes)
    lower = struct.unpack_from("<H", page, 12)[0]
    for offset in [*range(16, lower), *range(meta.page_bytes - 64, meta.page_bytes)]:
        overwrite(environment, start + offset, bytes([page[offset] ^ 1 << offset % 8]))
        try:
            check_pages(environment)
        except MalformedError:
            continue
        finally:
            overwrite(environment, start + offset, page[offset : offset + 1])
        with environment.data_file.open("rb") as file:
            assert free_pages(file, meta) <= whole
