"""An archive with a full segment, its index and Parquet, and what other people's programs say."""

import subprocess
import sys
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from ledger.object_storage.object_store import Bucket
from ledger.object_storage.place import Place
from ledger.query.segment_builder import SegmentBuilder
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import LogStore
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tree import Node
from tests.archive.archiving import ArchivedFolder, place_of
from tests.archive.seaweed import ObjectServer
from tests.archive.verifying import verify
from tests.peers.logcheck import logcheck
from tests.peers.tessera import fsck

ENTRIES = 65_536 + 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ArchivedFolder:
    """The folder of a ledger with a full segment that is sealed."""
    folder = ArchivedFolder(tmp_path_factory.mktemp("large") / "ledger")
    folder.grow(ENTRIES)
    with (
        closing(LogStore.open(folder.directory / "log")) as log,
        closing(IndexWriter.open(folder.directory / "index")) as writer,
    ):
        assert SegmentBuilder(log, writer).seal_next()
        (root,) = log.node_hashes([Node(16, 0)])
    parquet = folder.directory / "parquet"
    parquet.mkdir()
    # Its content is not looked at, and takes seconds to make. The other one is damaged.
    data, begin = b"PAR1PAR1", f"00000000.{root[:8].hex()}.v1"
    (parquet / f"{begin}.{sha256(data).hexdigest()[:16]}.parquet").write_bytes(data)
    (parquet / f"{begin}.{'0' * 16}.parquet").write_bytes(data)
    return folder


@pytest.fixture
def place(folder: ArchivedFolder, store: ObjectServer, request: pytest.FixtureRequest) -> Place:
    """The archive of that ledger, uploaded once."""
    kept: list[Place] = request.config.stash.setdefault(_PLACES, [])
    if not kept:
        kept.append(place_of(store.endpoint, store.make_bucket()))
        folder.upload(Bucket(kept[0]))
    return kept[0]


_PLACES = pytest.StashKey[list[Place]]()


def test_tiles_of_three_levels_index_and_parquet_are_there_and_proven(
    folder: ArchivedFolder, place: Place, store: ObjectServer
) -> None:
    report = verify(place, folder.policy)
    assert report["tree_size"] == ENTRIES
    # 256 full bundles, one of the next segment, and a partial one; each with its tile.
    assert (report["bundles"], report["tiles"]) == (258, 258 + 3)
    assert (report["index_segments"], report["parquet_files"]) == (1, 1)
    names = store.names(place.bucket)
    assert {"log/tile/1/000", "log/tile/1/001.p/1", "log/tile/2/000.p/1"} <= set(names)
    assert report["id_tables"] == 1
    assert report["requests"] == 1 + 2 * 258 + 3 + 3


def test_a_damaged_inner_tile_hides_nothing_below_it(
    folder: ArchivedFolder, place: Place, store: ObjectServer
) -> None:
    name, below = "log/tile/1/000", "log/tile/entries/007"
    kept = {each: store.read(place.bucket, each) for each in (name, below)}
    store.write(place.bucket, name, kept[name][::-1])
    store.delete(place.bucket, below)
    faults = verify(place, folder.policy, faults=2)["faults"]
    assert sorted(faults) == [
        "tile/1/000 is damaged: it is not of the tree of the head",
        "tile/entries/007 is missing",
    ]
    store.write(place.bucket, name, kept[name])
    store.write(place.bucket, below, kept[below], ContentEncoding="gzip")


@pytest.mark.parametrize("kind", ["index", "parquet", "ids"])
def test_a_damaged_segment_of_the_index_or_as_parquet_is_named(
    folder: ArchivedFolder, place: Place, store: ObjectServer, kind: str
) -> None:
    (name,) = store.names(place.bucket, f"log/{kind}/")
    data = store.read(place.bucket, name)
    for bad in (data[:-1] + bytes([data[-1] ^ 1]), data[: len(data) // 2], b""):
        store.write(place.bucket, name, bad)
        (fault,) = verify(place, folder.policy, faults=1)["faults"]
        assert fault.startswith(f"{name.removeprefix('log/')} is damaged")
    # An uploader that begins again, as after a rewind, finds it too.
    with pytest.raises(VerificationError, match="is there, and damaged"):
        folder.upload(Bucket(place), name=f"again-{kind}")
    store.write(place.bucket, name, data)


@pytest.mark.go
def test_tesseras_fsck_and_gos_library_read_the_bucket(
    folder: ArchivedFolder, place: Place, store: ObjectServer, tmp_path: Path
) -> None:
    url = f"{store.endpoint}/{place.bucket}/log"
    (log,) = parse_policy(folder.policy.read_bytes()).logs
    with closing(LogStore.open(folder.directory / "log")) as opened:
        head = opened.head()
    assert fsck(url, str(log.verifier), tmp_path) == (ENTRIES, format_base64(head.root_hash))
    report = logcheck(url, folder.policy, reads_entries=True)
    assert report["entries"] == report["size"] == ENTRIES


def test_aics_tlog_proves_an_entry_from_the_bucket(
    folder: ArchivedFolder, place: Place, store: ObjectServer, tmp_path: Path
) -> None:
    (log,) = parse_policy(folder.policy.read_bytes()).logs
    with closing(LogStore.open(folder.directory / "log")) as opened:
        leaf = opened.leaf(65_000)
    program = Path(sys.executable).with_name("aics-tlog")
    out = tmp_path / "entry"
    command = [
        *(str(program), "verify-inclusion", "--index", "65000", "--entry-out", str(out)),
        *("--tiles", f"{store.endpoint}/{place.bucket}/log"),
        *("--log-key", str(log.verifier)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == leaf
