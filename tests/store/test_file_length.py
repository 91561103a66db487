"""A data file that was cut short is named; one whose last pages were never written is sound."""

import os
from pathlib import Path

import pytest

from ledger.store.environment import Environment, create_environment
from ledger.store.file_length import check_length
from ledger.store.log import LogStore
from ledger.store.pages import free_pages, read_metas
from ledger_core.tlog.errors import MalformedError
from tests.store.entries import MAP_BYTES, entries, new_log


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.1])
def test_a_log_that_was_cut_short_is_named_with_both_sizes(tmp_path: Path, kept: float) -> None:
    log = new_log(tmp_path / "log")
    log.commit(entries(0, 2000))
    log.close()
    file = tmp_path / "log" / "data.mdb"
    whole = file.stat().st_size
    os.truncate(file, int(whole * kept))
    for readonly in (True, False):
        sizes = f"has {int(whole * kept)} bytes, but LMDB says {whole}:"
        with pytest.raises(MalformedError, match=sizes):
            LogStore.open(tmp_path / "log", readonly=readonly, map_bytes=MAP_BYTES)


def test_a_log_in_use_is_never_taken_for_one_that_was_cut_short(tmp_path: Path) -> None:
    log = new_log(tmp_path / "log")
    for start in range(0, 3000, 75):
        log.commit(entries(start, start + 75))
        check_length(tmp_path / "log" / "data.mdb")
    log.close()


def test_pages_that_were_given_back_unwritten_are_no_loss(tmp_path: Path) -> None:
    create_environment(tmp_path / "e", [b"rows", b"meta"], meta={}, map_bytes=MAP_BYTES)
    environment = Environment.open(
        tmp_path / "e", [b"rows", b"meta"], readonly=False, map_bytes=MAP_BYTES
    )
    file = tmp_path / "e" / "data.mdb"
    sizes: list[int] = []
    pages: list[int] = []
    for size in (1, 50, 500, 3, 700):
        with environment.write() as transaction:
            for number in range(size):
                transaction.put(b"rows", number.to_bytes(4, "big"), bytes(3000))
            for number in range(size):
                transaction.delete(b"rows", number.to_bytes(4, "big"))
        info = environment._raw.info()
        pages.append((info["last_pgno"] + 1) * environment._raw.stat()["psize"])
        sizes.append(file.stat().st_size)
        check_length(file)
    assert any(size < said for size, said in zip(sizes, pages, strict=True))
    environment.close()


def test_a_long_list_of_free_pages_is_read_to_its_end(tmp_path: Path) -> None:
    create_environment(tmp_path / "e", [b"rows", b"meta"], meta={}, map_bytes=MAP_BYTES)
    environment = Environment.open(
        tmp_path / "e", [b"rows", b"meta"], readonly=False, map_bytes=MAP_BYTES
    )
    with environment.read():  # Keeps LMDB from using the pages again, so the list grows.
        for turn in range(30):
            with environment.write() as transaction:
                for number in range(150):
                    transaction.put(b"rows", number.to_bytes(4, "big"), bytes(2000) + b"%d" % turn)
    raw = environment._raw
    used = 0
    with raw.begin() as transaction:
        for stat in (
            raw.stat(),
            *(transaction.stat(raw.open_db(name)) for name in (b"rows", b"meta")),
        ):
            used += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    with (tmp_path / "e" / "data.mdb").open("rb") as file:
        newest = max(read_metas(file), key=lambda meta: meta.transaction)
        free = free_pages(file, newest)
    # The rest are the two heads and the pages of the list itself.
    rest = raw.info()["last_pgno"] + 1 - used - len(free)
    assert 4 < rest < len(free) / 20
    assert len(free) > 2000
    environment.close()
