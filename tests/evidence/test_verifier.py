"""A file of evidence: it verifies as it was written, and whatever is changed in it is named."""

import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ledger_core.evidence import verifier
from ledger_core.evidence.bundle import CHUNK_BYTES, EvidenceEvent, event_stem, write_evidence
from ledger_core.evidence.verifier import FAULTS_MAX, check_evidence
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.policy import format_policy, parse_policy
from ledger_core.tlog.proof import format_proof
from tests.client.hosts import entries
from tests.client.trees import SmallLog

LOG = SmallLog(entries(40))
INDICES = (0, 7, 39)
POLICY = LOG.policy

Files = dict[str, bytes]
Change = Callable[[Files], object]


def write(path: Path, indices: tuple[int, ...] = INDICES, *, size: int = 40) -> Path:
    events = [
        EvidenceEvent(
            index=index, leaf=LOG.leaves[index], proof=format_proof(LOG.proof(index, size))
        )
        for index in indices
    ]
    chunks = write_evidence(
        events,
        query="actor:u_1",
        origin="example.com/audit",
        tree_size=size,
        checkpoint=LOG.note(size),
        policy=format_policy([LOG.signer.verifier]),
    )
    path.write_bytes(b"".join(chunks))
    return path


def changed(path: Path, change: Change) -> Path:
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_what_was_written_is_verified_and_says_how(tmp_path: Path) -> None:
    path = write(tmp_path / "evidence.zip")
    evidence = check_evidence(path, POLICY)
    assert evidence.faults == ()
    assert evidence.indices == INDICES
    assert evidence.manifest.query == "actor:u_1"
    assert evidence.head.checkpoint.tree_size == 40
    assert not evidence.policy_differs
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert b"ledger verify" in archive.read("README.txt")
        assert archive.read("events/000000000007.leaf.json") == LOG.leaves[7]


def test_one_export_made_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a").read_bytes() == write(tmp_path / "b").read_bytes()


def test_the_order_of_events_is_that_of_the_file(tmp_path: Path) -> None:
    assert check_evidence(write(tmp_path / "evidence.zip", (39, 0)), POLICY).indices == (39, 0)


def test_the_pieces_of_a_large_file_are_a_file(tmp_path: Path) -> None:
    event = EvidenceEvent(index=7, leaf=LOG.leaves[7], proof=format_proof(LOG.proof(7, 40)))
    large = EvidenceEvent(index=8, leaf=os.urandom(1 << 17), proof="")
    pieces = list(
        write_evidence(
            [event, large],
            query="",
            origin="example.com/audit",
            tree_size=40,
            checkpoint=LOG.note(40),
            policy="",
        )
    )
    assert len(pieces) == 2
    assert len(pieces[0]) > CHUNK_BYTES


def test_no_events_are_evidence_too(tmp_path: Path) -> None:
    evidence = check_evidence(write(tmp_path / "evidence.zip", ()), POLICY)
    assert (evidence.indices, evidence.faults) == ((), ())


def alter(files: Files) -> None:
    files["events/000000000007.leaf.json"] += b" "


def swap(files: Files) -> None:
    one, other = "events/000000000000.leaf.json", "events/000000000039.leaf.json"
    files[one], files[other] = files[other], files[one]


def move(files: Files) -> None:
    for ending in ("leaf.json", "tlog-proof"):
        files[f"events/000000000008.{ending}"] = files.pop(f"events/000000000007.{ending}")


def leave_out(files: Files) -> None:
    for ending in ("leaf.json", "tlog-proof"):
        del files[f"events/000000000007.{ending}"]


def lose_proof(files: Files) -> None:
    del files["events/000000000007.tlog-proof"]


def prove_by_another_head(files: Files) -> None:
    files["events/000000000007.tlog-proof"] = format_proof(LOG.proof(7, 39)).encode()


def break_proof(files: Files) -> None:
    files["events/000000000007.tlog-proof"] = b"c2sp.org/tlog-proof@v1\n"


def replace_by_another_entry(files: Files) -> None:
    leave_out(files)
    files["events/000000000008.leaf.json"] = LOG.leaves[8]
    files["events/000000000008.tlog-proof"] = format_proof(LOG.proof(8, 40)).encode()


def lose_leaf(files: Files) -> None:
    del files["events/000000000007.leaf.json"]


def add_foreign_ending(files: Files) -> None:
    files["events/000000000007.txt"] = b""


def add_file(files: Files) -> None:
    files["events/../../etc/passwd"] = b"root"


def claim_another_size(files: Files) -> None:
    files["manifest.json"] = files["manifest.json"].replace(b": 40", b": 41")


def enlarge(files: Files) -> None:
    files["events/000000000007.leaf.json"] = b" " * (1 << 17)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (alter, "events/000000000007.leaf.json"),
        (swap, "events/000000000000.leaf.json"),
        (move, "events/000000000008.leaf.json"),
        (leave_out, "manifest.json"),
        (replace_by_another_entry, "manifest.json"),
        (lose_proof, "events/000000000007.leaf.json"),
        (lose_leaf, "events/000000000007.tlog-proof"),
        (add_foreign_ending, "events/000000000007.txt"),
        (prove_by_another_head, "events/000000000007.leaf.json"),
        (break_proof, "events/000000000007.leaf.json"),
        (add_file, "etc/passwd"),
        (claim_another_size, "manifest.json"),
        (enlarge, "events/000000000007.leaf.json"),
    ],
)
def test_what_was_changed_is_named(tmp_path: Path, change: Change, named: str) -> None:
    path = changed(write(tmp_path / "evidence.zip"), change)
    faults = check_evidence(path, POLICY).faults
    assert any(named in fault.partition(": ")[0] for fault in faults), faults


def test_one_fault_hides_no_other_and_their_number_has_a_limit(tmp_path: Path) -> None:
    def change(files: Files) -> None:
        alter(files)
        files["events/000000000039.leaf.json"] += b" "
        files.update({f"foreign{number:02}": b"" for number in range(FAULTS_MAX - 3)})

    path = changed(write(tmp_path / "evidence.zip"), change)
    evidence = check_evidence(path, POLICY)
    assert len(evidence.faults) == FAULTS_MAX - 1
    assert evidence.indices == (0,)
    path = changed(path, lambda files: files.update({f"more{n:02}": b"" for n in range(9)}))
    faults = check_evidence(path, POLICY).faults
    assert len(faults) == FAULTS_MAX + 1
    assert faults[-1] == "and more"


def test_a_file_of_the_longest_leaf_is_read(tmp_path: Path) -> None:
    def lengthen(files: Files, size_bytes: int) -> None:
        files["events/000000000007.leaf.json"] = bytes(size_bytes)

    for size_bytes, why in ((65_535, "not in the tree"), (65_536, "longer than 65535 bytes")):
        path = write(tmp_path / "evidence.zip")
        changed(path, partial(lengthen, size_bytes=size_bytes))
        (fault, *_) = check_evidence(path, POLICY).faults
        assert why in fault


def test_a_name_that_stands_twice_is_malformed(tmp_path: Path) -> None:
    path = write(tmp_path / "evidence.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("events/000000000007.leaf.json", b"another")
    with pytest.raises(MalformedError, match="twice"):
        check_evidence(path, POLICY)


def test_more_files_than_a_writer_makes_are_malformed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "evidence.zip")
    monkeypatch.setattr(verifier, "EVENTS_MAX", len(INDICES))
    assert check_evidence(path, POLICY).faults == ()
    changed(path, lambda files: files.update({"one more": b""}))
    with pytest.raises(MalformedError, match="want 3 events at most"):
        check_evidence(path, POLICY)


@pytest.mark.parametrize("manifest", [b"", b"{}", b"\xff", b'{"v": 2}'])
def test_a_manifest_of_another_form_is_malformed(tmp_path: Path, manifest: bytes) -> None:
    path = changed(
        write(tmp_path / "evidence.zip"), lambda files: files.update({"manifest.json": manifest})
    )
    with pytest.raises(MalformedError, match=r"manifest\.json: "):
        check_evidence(path, POLICY)


def test_the_policy_inside_is_not_believed(tmp_path: Path) -> None:
    stranger = SmallLog(LOG.leaves, key="a stranger's key")
    path = write(tmp_path / "evidence.zip")
    with pytest.raises(VerificationError, match="checkpoint"):
        check_evidence(path, stranger.policy)
    both = parse_policy(format_policy([LOG.signer.verifier, stranger.signer.verifier]).encode())
    assert check_evidence(path, both).faults == ()
    assert not check_evidence(path, both).policy_differs
    files = {"policy": format_policy([stranger.signer.verifier]).encode()}
    changed(path, lambda inside: inside.update(files))
    assert check_evidence(path, POLICY).policy_differs


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_a_file_that_is_cut_short_is_malformed(tmp_path: Path, kept: float) -> None:
    path = write(tmp_path / "evidence.zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(MalformedError, match=r"not a whole \.zip"):
        check_evidence(path, POLICY)


def test_a_file_without_its_manifest_is_malformed(tmp_path: Path) -> None:
    path = changed(write(tmp_path / "evidence.zip"), lambda files: files.pop("manifest.json"))
    with pytest.raises(MalformedError, match="manifest"):
        check_evidence(path, POLICY)


def test_names_sort_as_indices_do() -> None:
    assert sorted(event_stem(index) for index in (9, 10, 2**40)) == [
        event_stem(index) for index in (9, 10, 2**40)
    ]
