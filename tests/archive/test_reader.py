"""A read-only service over an archive: what it answers, and what a bad bucket can't make it say."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from ledger.demo.child_service import Service
from ledger.object_storage.fetching import Objects, Part
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.place import Place
from ledger.object_storage.s3_requests import Listed
from ledger.query.parquet_segments import seal_missing
from ledger.query.segment_builder import SegmentBuilder
from ledger.reader.app import serve
from ledger.reader.archived_index import ArchivedIndex
from ledger.reader.data_dir import CACHE_BYTES_MIN, ReaderPaths, read_config
from ledger.reader.open_archive import OpenArchive, open_archive, running_loop
from ledger.service.token_admin import make_token
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import LogStore
from ledger_client import LedgerClient
from ledger_client.cli.sql import command as sql_command
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.tile import decode_bundle
from tests.archive.archiving import SMALL, ArchivedFolder, BadStore, Fault, Reply, place_of
from tests.archive.reading import make_reader, reading
from tests.archive.seaweed import ObjectServer
from tests.service.serving import QUICK, Ledger
from tests.waiting import until

SEGMENT = 65_536
ENTRIES = SEGMENT + 300
RARE = {"actor": {"type": "user", "id": "u_rare"}, "action": "user.deleted", "tenant": "acme"}


@dataclass(frozen=True)
class Archive:
    """A ledger with a full segment, and its archive."""

    folder: ArchivedFolder
    place: Place


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, store: ObjectServer) -> Archive:
    """An archive with a full segment, its index and its ids."""
    folder = ArchivedFolder(tmp_path_factory.mktemp("large") / "ledger")
    folder.append(count=1000)
    folder.append(dict(RARE))
    folder.append(count=ENTRIES - 1001 - 1)
    folder.append(dict(RARE))
    folder.publish()
    with (
        closing(LogStore.open(folder.directory / "log")) as log,
        closing(IndexWriter.open(folder.directory / "index")) as writer,
    ):
        assert SegmentBuilder(log, writer).seal_next()
    return Archive(folder, place_of(store.endpoint, store.make_bucket()))


@pytest.fixture
def archive(large: Archive) -> Archive:
    """As `large`, uploaded: the credentials are those of a test."""
    if not (large.folder.directory / "archive").exists():
        large.folder.upload(Bucket(large.place))
    return large


@contextmanager
def read(
    tmp_path: Path, folder: ArchivedFolder, place: Place, name: str = "reader"
) -> Iterator[Ledger]:
    """A reader of an archive that has read its head."""
    directory = tmp_path / name
    tokens = make_reader(directory, place, folder.policy)
    with reading(directory, tokens) as reader:
        until(lambda: reader.ask("/readyz").status == 200)
        yield reader


@contextmanager
def client_of(reader: Ledger) -> Iterator[LedgerClient]:
    """A client that verifies all answers."""
    with LedgerClient(
        reader.url, reader.tokens["read"], policy=reader.directory / "policy"
    ) as client:
        yield client


def test_a_reader_answers_what_the_ledger_would(archive: Archive, tmp_path: Path) -> None:
    folder, place = archive.folder, archive.place
    with (
        read(tmp_path, folder, place) as reader,
        client_of(reader) as client,
        closing(LogStore.open(folder.directory / "log")) as log,
    ):
        assert client.checkpoint().checkpoint.head == log.head()
        for index in (0, 1000, SEGMENT - 1, SEGMENT, ENTRIES - 1):
            entry = client.event(index)
            assert reader.ask(f"/v1/events/{index}").json()["leaf"].encode() == log.leaf(index)
            assert client.event(str(entry.event.id)).index == index
        assert reader.ask("/v1/events/00000000-0000-7000-8000-000000000000").slug == "no-event"
        found = client.search("actor:u_rare")
        assert [entry.index for entry in found.entries] == [ENTRIES - 1, 1000]
        assert found.is_complete
        assert found.total == 2
        assert client.search("action:record.viewed", limit=3).total == ENTRIES - 2
        first_id = str(client.event(1000).event.id)
        assert [each.index for each in client.search(f"id:{first_id}").entries] == [1000]
        # Tiles, bundles and proofs, as any program for tlog-tiles asks.
        for path, want in (
            ("tile/0/000", log.tile(level=0, index=0, width=256)),
            ("tile/0/257.p/44", log.tile(level=0, index=257, width=44)),
            ("tile/1/000", log.tile(level=1, index=0, width=256)),
            ("tile/2/000.p/1", log.tile(level=2, index=0, width=1)),
        ):
            assert reader.ask(f"/{path}").body == want
        bundle = reader.ask("/tile/entries/003", accept_encoding="identity").body
        assert decode_bundle(bundle)[1000 - 768] == log.leaf(1000)
        proof = reader.ask(f"/v1/proofs/consistency?from=1000&to={SEGMENT + 1}").text
        old = log.head_at(SEGMENT + 1)
        assert len(proof.splitlines()) == len(log.prove_consistency(1000, old))
        multi = b'{"tree_size": %d, "indices": [5, 60000]}' % ENTRIES
        assert reader.ask("/v1/proofs/multi", method="POST", body=multi).status == 200
        kept = reader.ask("/v1/checkpoints").json()["checkpoints"]
        assert len(kept) == 1
        lines = reader.ask("/v1/export?q=actor:u_rare").text.splitlines()
        assert len([line for line in lines if "u_rare" in line]) == 2
        state = reader.ask("/v1/log").json()
        assert (state["index"]["sealed_segments"], state["mirror_of"]) == (1, place.url)


def test_scopes_and_tenants_are_those_of_a_ledger_and_nothing_is_appended(
    archive: Archive, tmp_path: Path
) -> None:
    with read(tmp_path, archive.folder, archive.place) as reader:
        assert reader.ask("/v1/events/5", token=None).status == 401
        assert reader.ask("/v1/events/5", token="acme").slug == "wrong-tenant"
        assert reader.ask("/v1/events/1000", token="acme").status == 200
        assert reader.ask("/v1/events?q=outcome:success", token="acme").json()["total"] == 2
        assert reader.ask("/tile/0/000", token=None).status == 200
        for path in ("/v1/events", "/v1/evidence", "/v1/queries", "/v1/private/erasures"):
            refused = reader.ask(path, method="POST", body=b"{}", content_type="application/json")
            assert (refused.status, refused.slug) == (403, "read-only")


def test_sql_is_asked_of_the_bucket(archive: Archive, store: ObjectServer, tmp_path: Path) -> None:
    folder, place = archive.folder, archive.place
    directory = tmp_path / "reader"
    make_reader(directory, place, folder.policy)
    asked = (
        "SELECT \"index\", actor_id, tenant FROM events WHERE actor_id = 'u_rare' ORDER BY 1",
        *(str(directory), "--json", "--verify", "--policy", str(folder.policy)),
    )
    want = [{"index": at, "actor_id": "u_rare", "tenant": "acme"} for at in (1000, ENTRIES - 1)]
    # Without Parquet in the bucket the entries are read and verified.
    assert run_sql(*asked) == want
    with closing(LogStore.open(folder.directory / "log")) as log:
        assert seal_missing(log, folder.directory / "parquet") == 1
    folder.upload(Bucket(place), name="with-parquet")
    assert run_sql(*asked) == want
    counted = run_sql("SELECT count(*) AS n FROM events", str(directory), "--json")
    assert counted == [{"n": ENTRIES}]
    # Only files of this archive are read, by their names.
    (name,) = store.names(place.bucket, "log/parquet/")
    address = f"archive://{name.removeprefix('log/')}"
    for other in ("archive://checkpoint", str(folder.policy)):
        with pytest.raises(MalformedError, match="disabled by configuration"):
            run_sql(f"SELECT * FROM read_text('{other}')", str(directory), "--json")
    found = run_sql(
        f"SELECT count(*) AS n FROM read_parquet('{address}')", str(directory), "--json"
    )
    assert found == [{"n": SEGMENT}]
    # A row that somebody has changed in the bucket is not what the log has.
    whole = store.read(place.bucket, name)
    true, forged = tmp_path / "true.parquet", tmp_path / "forged.parquet"
    true.write_bytes(whole)
    fake = "* REPLACE (replace(actor_id, 'u_rare', 'u_fake') AS actor_id)"
    duckdb.execute(f"COPY (SELECT {fake} FROM '{true}') TO '{forged}'")
    try:
        store.write(place.bucket, name, forged.read_bytes())
        for path in (directory / "cache").glob("??/*"):
            path.unlink()
        with pytest.raises(VerificationError):
            run_sql(asked[0].replace("u_rare", "u_fake"), *asked[1:])
    finally:
        store.write(place.bucket, name, whole)


def run_sql(*arguments: str) -> list[dict[str, Any]]:
    """The rows that `ledger sql` prints. Raises: what it ends with."""
    done = CliRunner().invoke(sql_command, arguments)
    if done.exception is not None:
        raise done.exception
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_two_readers_side_by_side_and_one_that_is_killed(archive: Archive, tmp_path: Path) -> None:
    place = archive.place
    flags = (
        *("--read-only", place.url, "--endpoint", place.endpoint, "--log-level", "error"),
        *("--policy", str(archive.folder.policy), "--cache-bytes", str(CACHE_BYTES_MIN)),
    )
    two = tmp_path / "two"
    with read(tmp_path, archive.folder, place, "one") as one:
        with Service(two, listen="127.0.0.1:0", flags=flags) as served:
            token = make_token(two, name="read", scopes=("read",), tenant=None)
            reader = Ledger(served.url, two, {"admin": token}, one.policy)
            until(lambda: reader.ask("/readyz").status == 200)
            answers = [each.ask("/v1/events?q=actor:u_rare").json() for each in (one, reader)]
            assert answers[0]["total"] == answers[1]["total"] == 2
            os.kill(served.process_id, signal.SIGKILL)
            served.wait()
        assert one.ask("/v1/events/70").status == 200
    # What a crash leaves of files in the cache is noticed, and fetched again.
    cached = sorted((two / "cache").glob("??/*"))
    assert cached
    for path in cached:
        path.write_bytes(path.read_bytes()[:-7])
    half = cached[0].with_name(f"{cached[0].name}.new")
    half.write_bytes(b"half")
    # The second start needs no option: the folder says what it reads.
    with Service(two, listen="127.0.0.1:0", flags=("--log-level", "error")) as served:
        reader = Ledger(served.url, two, {"admin": token}, one.policy)
        until(lambda: reader.ask("/readyz").status == 200)
        assert reader.ask("/v1/events?q=actor:u_rare").json()["total"] == 2
        assert not half.exists()
        with pytest.raises(UnavailableError, match="is being served by process"):
            asyncio.run(serve(two, QUICK, stop=asyncio.Event()))


def test_the_cache_keeps_its_bound(archive: Archive, tmp_path: Path) -> None:
    with read(tmp_path, archive.folder, archive.place) as reader:
        for index in range(0, SEGMENT, 4096):
            assert reader.ask(f"/v1/events/{index}").status == 200
        files = (tmp_path / "reader" / "cache").glob("??/*")
        assert sum(path.stat().st_size for path in files) <= CACHE_BYTES_MIN


def test_a_bucket_that_does_not_answer_holds_up_nobody_else(
    archive: Archive, store: ObjectServer, tmp_path: Path
) -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def hold(_method: str, path: str) -> Reply | None:
        if path.endswith("/tile/entries/010"):
            waiting.set()
            go_on.wait(60)
        return None

    with (
        BadStore(store.endpoint) as bad,
        read(tmp_path, archive.folder, archive.place._replace(endpoint=bad.endpoint)) as reader,
        ThreadPoolExecutor() as threads,
    ):
        bad.fault = hold
        slow = threads.submit(reader.ask, "/v1/events/2570")
        search = threads.submit(reader.ask, "/v1/events?q=index:2570")
        assert waiting.wait(60)
        assert reader.ask("/v1/events/70").status == 200
        assert reader.ask(f"/v1/events/{ENTRIES - 1}?proof=1").status == 200
        assert reader.ask("/v1/events?q=actor:u_rare").json()["total"] == 2
        assert not slow.done()
        go_on.set()
        assert (slow.result().status, search.result().status) == (200, 200)


def instead_of_bundle_10(reply: Reply) -> Fault:
    """The answer of a bad store to who asks for that bundle."""
    return lambda _method, path: reply if "tile/entries/010" in path else None


def test_what_the_bucket_can_not_give_is_named(
    archive: Archive, store: ObjectServer, tmp_path: Path
) -> None:
    place = archive.place
    with (
        BadStore(store.endpoint) as bad,
        read(tmp_path, archive.folder, place._replace(endpoint=bad.endpoint)) as reader,
    ):
        for status in (500, 503):
            bad.fault = instead_of_bundle_10(Reply(status))
            failed = reader.ask("/v1/events/2570")
            assert (failed.status, failed.slug) == (503, "archive-unavailable")
            assert "tile/entries/010" in failed.json()["detail"]
            assert failed.headers["Retry-After"]
            assert place.bucket not in failed.json()["detail"]
        for wrong in (b"", b"wrong bytes", store.read(place.bucket, "log/tile/entries/011")):
            bad.fault = instead_of_bundle_10(Reply(200, wrong))
            failed = reader.ask("/v1/events/2570")
            assert (failed.status, failed.slug) == (500, "damaged"), wrong
            assert "bundle 10" in failed.json()["detail"]
        bad.fault = lambda _method, path: Reply(404) if "tile/1/000" in path else None
        for path in (tmp_path / "reader" / "cache").glob("??/*"):
            path.unlink()
        # A search over a bundle that is gone says which events it lacks.
        bad.fault = instead_of_bundle_10(Reply(404))
        found = reader.ask("/v1/events?q=index:2304..2815&limit=500").json()
        assert (found["complete"], len(found["events"])) == (False, 256)
        assert found["unreadable"] == [10]
        # All is well again: nothing of it was kept.
        bad.fault = lambda _method, _path: None
        assert reader.ask("/v1/events/2570").status == 200
        assert reader.ask("/v1/events?q=actor:u_rare").json()["complete"]


def test_a_damaged_segment_of_the_index_loses_no_event(
    archive: Archive, store: ObjectServer, tmp_path: Path
) -> None:
    place = archive.place
    (name,) = store.names(place.bucket, "log/index/")
    whole = store.read(place.bucket, name)
    first = min(1 << 17, len(whole))
    with BadStore(store.endpoint) as bad:
        tokens = make_reader(
            tmp_path / "reader", place._replace(endpoint=bad.endpoint), archive.folder.policy
        )
        with reading(tmp_path / "reader", tokens, query_time_s=120.0) as reader:
            bad.fault = lambda method, path: (
                Reply(206, bytes(first), {"Content-Range": f"bytes 0-{first - 1}/{len(whole)}"})
                if "/index/" in path and method == "GET"
                else None
            )
            until(lambda: reader.ask("/readyz").status == 200)
            answer = reader.ask("/v1/events?q=actor:u_rare").json()
            assert (answer["total"], answer["complete"]) == (2, True)
            assert [each["index"] for each in answer["events"]] == [ENTRIES - 1, 1000]
            state = reader.ask("/readyz").json()
            assert any("index's segments were damaged" in each for each in state["warnings"])


def test_what_a_search_reads_next_is_fetched_at_once(archive: Archive, tmp_path: Path) -> None:
    directory = tmp_path / "reader"
    make_reader(directory, archive.place, archive.folder.policy)
    paths = ReaderPaths(directory)
    asked: list[Part] = []

    def obtain(objects: Objects, parts: Sequence[Part]) -> None:
        asked.extend(parts)
        objects.wait(parts)

    with running_loop() as loop:

        async def start() -> tuple[OpenArchive, list[Listed]]:
            opened = open_archive(paths, read_config(paths), paths.cache)
            return opened, [each async for each in opened.objects.bucket.lengths("index")]

        paths.cache.mkdir()
        opened, listed = asyncio.run_coroutine_threadsafe(start(), loop).result()
        index = ArchivedIndex(opened.objects, obtain)
        index.take(listed, full_segments=1)
        index.read_records()
        for dimension, value in (("actor", "u_rare"), ("target", "none"), ("word", "record")):
            index.expect(dimension, value.encode(), [0, 7])
            before = len(asked)
            with index.snapshot() as snapshot:
                found = [segment for segment, _ in snapshot.find(dimension, value, [0])]
            assert found == ([0] if dimension != "target" else [])
            assert len(asked) == before
        assert len({part.key for part in asked}) == len(asked)
        loop.call_soon_threadsafe(opened.objects.close)


def test_a_copy_on_a_disk_is_served_too(
    folder: ArchivedFolder, store: ObjectServer, tmp_path: Path
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(SMALL)
    folder.upload(Bucket(place))
    copy = tmp_path / "copy"
    for name in store.names(place.bucket):
        path = copy / name.removeprefix("log/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(place.bucket, name))
    with read(tmp_path, folder, Place(f"file://{copy}")) as reader, client_of(reader) as client:
        assert client.event(SMALL - 1).index == SMALL - 1
        assert client.search("action:record.viewed", limit=1).total == SMALL
        for path in (tmp_path / "reader" / "cache").glob("??/*"):
            path.unlink()
        (copy / "tile" / "entries" / "000").unlink()
    # A new start has nothing in memory: what is gone from the disk is named.
    with reading(tmp_path / "reader", reader.tokens) as again:
        until(lambda: again.ask("/readyz").status == 200)
        missing = again.ask("/v1/events/5")
        assert (missing.status, missing.slug) == (500, "damaged")
        assert "tile/entries/000 is missing" in missing.json()["detail"]
        assert again.ask("/v1/events/300").status == 200


@pytest.mark.parametrize("url", ["https://example.com/log", "s3://b", "ftp://example.com"])
def test_an_address_that_a_reader_can_not_list_is_refused(
    folder: ArchivedFolder, tmp_path: Path, url: str
) -> None:
    with pytest.raises(MalformedError, match="url: "):
        make_reader(tmp_path / "reader", Place(url), folder.policy)
    assert not (tmp_path / "reader").exists()


def test_no_older_head_is_served_after_a_newer_one(
    folder: ArchivedFolder, store: ObjectServer, tmp_path: Path
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(SMALL)
    folder.upload(Bucket(place))
    old = store.read(place.bucket, "log/checkpoint")
    with read(tmp_path, folder, place) as reader:
        folder.grow(100)
        folder.upload(Bucket(place))
        new = store.read(place.bucket, "log/checkpoint")
        until(lambda: reader.ask("/checkpoint").body == new)
        store.write(place.bucket, "log/checkpoint", old)
        until(lambda: bool(reader.ask("/readyz").json()["warnings"]))
        assert "an older one" in reader.ask("/readyz").json()["warnings"][0]
        assert reader.ask("/checkpoint").body == new
    # Nor by a reader that is started again, whose bucket has the older one.
    with reading(tmp_path / "reader", reader.tokens) as again:
        until(lambda: again.ask("/readyz").status == 200)
        assert again.ask("/checkpoint").body == new
        assert again.ask(f"/v1/events/{SMALL + 50}?proof=1").status == 200


def test_an_archive_of_another_history_is_never_served(
    folder: ArchivedFolder, store: ObjectServer, tmp_path: Path
) -> None:
    place = place_of(store.endpoint, store.make_bucket())
    folder.grow(SMALL)
    folder.upload(Bucket(place))
    other = ArchivedFolder(tmp_path / "other")  # With the same key.
    other.append({"action": "record.deleted"})
    other.grow(SMALL + 10)
    elsewhere = place_of(store.endpoint, store.make_bucket())
    other.upload(Bucket(elsewhere))
    with read(tmp_path, folder, place) as reader:
        kept = reader.ask("/checkpoint").body
        for name in store.names(elsewhere.bucket):
            store.write(place.bucket, name, store.read(elsewhere.bucket, name))
        until(lambda: reader.ask("/readyz").status == 503)
        assert "forked or was rewritten" in reader.ask("/readyz").json()["detail"]
        assert reader.ask("/checkpoint").body == kept
        (evidence,) = (tmp_path / "reader" / "evidence").iterdir()
        assert {each.name for each in evidence.iterdir()} >= {"accepted.note", "offered.note"}
