"""Objects that a ledger did not write, in the bucket of an archive: its readers go on."""

from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.archive.ids import ID_BYTES, MAGIC, TABLE_BYTES
from ledger.cli.archive import verify as verify_command
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from tests.archive.archiving import BadStore, Reply
from tests.archive.seaweed import ObjectServer
from tests.archive.test_reader import Archive, archive, large, read
from tests.archive.verifying import verify

__all__ = ["archive", "large"]

OBJECT = "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>1</ETag><Size>9</Size>"

LIAR = MAGIC + bytes(TABLE_BYTES - len(MAGIC))
"""A table of ids that is whole, and has none of the log's."""


def table_of(id_: str, place: int) -> tuple[str, bytes]:
    """A table of ids that is whole, and says that an id is that of another entry."""
    row = bytes.fromhex(id_.replace("-", "")) + place.to_bytes(2, "big")
    last = b"\xff" * ID_BYTES + bytes(2)
    rows = (SEGMENT_ENTRIES_MAX - 1) * last
    data = MAGIC + bytes(32) + row + rows
    return f"ids/00000000.000000000000-ffffffffffff.m.{sha256(data).hexdigest()[:16]}.ids", data


@pytest.mark.parametrize("query", ["id:{}", "id:{}*"])
def test_a_table_of_ids_shows_no_event_with_another_id(
    archive: Archive, store: ObjectServer, tmp_path: Path, query: str
) -> None:
    id_ = "0192f0c1-7c1a-7000-8000-000000000000"
    name, data = table_of(id_, 77)
    store.write(archive.place.bucket, f"log/{name}", data)
    try:
        with read(tmp_path, archive.folder, archive.place) as reader:
            answer = reader.ask(f"/v1/events?q={query.format(id_)}").json()
            assert (answer["total"], answer["events"]) == (0, [])
            assert reader.ask(f"/v1/events/{id_}").status == 404
    finally:
        store.delete(archive.place.bucket, f"log/{name}")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("index/00000000.ffffffffffffffff.segment", b""),
        ("index/00000000.ffffffffffffffff.segment", b"x"),
        ("index/00000000.0000000000000000.segment", b"x" * 500_000),
        ("ids/00000000.ffffffffffff-ffffffffffff.t.ffffffffffffffff.ids", b""),
        ("ids/00000000.000000000000-ffffffffffff.m.ffffffffffffffff.ids", b"x"),
        (f"ids/00000000.ffffffffffff-ffffffffffff.t.{sha256(LIAR).hexdigest()[:16]}.ids", LIAR),
    ],
)
def test_an_object_more_of_a_segment_hides_nothing_and_ends_nothing(
    archive: Archive, store: ObjectServer, tmp_path: Path, name: str, data: bytes
) -> None:
    place = archive.place
    store.write(place.bucket, f"log/{name}", data)
    try:
        with read(tmp_path, archive.folder, place) as reader:
            answer = reader.ask("/v1/events?q=actor:u_rare").json()
            assert (answer["total"], answer["complete"]) == (2, True)
            id_ = answer["events"][1]["event"]["id"]
            found = reader.ask(f"/v1/events/{id_}")
            assert (found.status, found.json()["index"]) == (200, 1000)
            assert reader.ask("/v1/events/0192f0c1-7c1a-7000-8000-000000000000").status == 404
            # The index was used, though the other object was looked at.
            assert reader.ask("/readyz").json()["warnings"] == []
    finally:
        store.delete(place.bucket, f"log/{name}")


def test_a_check_looks_at_few_objects_of_a_segment_and_counts_none_twice(
    archive: Archive, store: ObjectServer
) -> None:
    place, asked = archive.place, []
    (name,) = store.names(place.bucket, "log/index/")
    (ids,) = store.names(place.bucket, "log/ids/")
    others = [f"log/index/00000000.{number:016x}.segment" for number in range(1000)]

    def lists(names: list[str]) -> bytes:
        found = "".join(f"<Contents><Key>{each}</Key>{OBJECT}</Contents>" for each in names)
        return (
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
        )

    with BadStore(store.endpoint) as bad:
        names = [name, name, "log/index/00000001.0000000000000000.segment"]

        def fault(_method: str, path: str) -> Reply | None:
            if "list-type" in path and "index" in path:
                return Reply(200, lists(names))
            if "/index/" in path:
                asked.append(path)
            return Reply(200, bytes(TABLE_BYTES + 1)) if is_long and ids in path else None

        bad.fault, is_long = fault, False
        report = verify(place, archive.folder.policy, endpoint=bad.endpoint)
        assert (report["verified"], report["index_segments"]) == (True, 1)
        names, is_long = [name, *others], True
        asked.clear()
        report = verify(place, archive.folder.policy, faults=9, endpoint=bad.endpoint)
        said = "index: more than 8 objects are of segment 0: the others are not checked"
        assert said in report["faults"]
        assert any(f"at most {TABLE_BYTES:,} are right" in each for each in report["faults"])
        assert len(asked) == 8


def test_a_check_says_of_what_it_read_that_its_content_is_no_proof(archive: Archive) -> None:
    options = ["--endpoint", archive.place.endpoint, "--policy", str(archive.folder.policy)]
    done = CliRunner().invoke(verify_command, [archive.place.url, *options])
    for part in ("1 segment", "1 table", "0 files"):
        assert f"{part}, whole; their content is no proof" in done.stdout
