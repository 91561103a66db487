"""Evidence of the first edition keeps verifying, and whatever is changed in it is named."""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ledger_core.evidence.findings import FINDINGS_MAX
from ledger_core.evidence.first_edition import event_stem
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.policy import format_policy, parse_policy
from ledger_core.tlog.proof import format_proof
from tests.client.trees import SmallLog
from tests.evidence.first_edition import INDICES, LOG, POLICY, write

Files = dict[str, bytes]
Change = Callable[[Files], object]


def changed(path: Path, change: Change) -> Path:
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


OLD = Path(__file__).parents[1] / "data"


def test_a_bundle_that_the_first_edition_wrote_verifies() -> None:
    policy = parse_policy((OLD / "evidence-1.policy").read_bytes())
    evidence = check_evidence(OLD / "evidence-1.zip", policy)
    assert (evidence.edition, evidence.faults, evidence.events) == (1, (), 15)
    assert evidence.span == (6, 300)
    assert evidence.query == "action:login.failed actor:u_3"
    assert evidence.unevaluated == ""
    assert evidence.stated is None
    assert evidence.is_verified
    assert evidence.existed is not None


@pytest.mark.parametrize("indices", [INDICES, (39, 7, 0), (39,)])
def test_what_was_written_is_verified(tmp_path: Path, indices: tuple[int, ...]) -> None:
    evidence = check_evidence(write(tmp_path / "evidence.zip", indices), POLICY)
    assert (evidence.faults, evidence.events) == ((), len(indices))
    assert evidence.span == (min(indices), max(indices))
    assert evidence.head.checkpoint.tree_size == 40


def test_no_events_prove_nothing(tmp_path: Path) -> None:
    evidence = check_evidence(write(tmp_path / "evidence.zip", ()), POLICY)
    assert (evidence.events, evidence.faults, evidence.is_verified) == (0, (), False)


def test_each_event_is_held_against_the_query(tmp_path: Path) -> None:
    path = write(tmp_path / "evidence.zip", query="actor:u_2")
    faults = check_evidence(path, POLICY).faults
    assert len(faults) == len(INDICES)
    assert all("does not meet the query" in fault for fault in faults)
    relative = check_evidence(write(path, query="since:-8d"), POLICY)
    assert relative.faults == ()
    assert "relative" in relative.unevaluated
    unread = check_evidence(write(path, query="new.field:1"), POLICY)
    assert "can't read the query" in unread.unevaluated


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


def rewrite_query(files: Files) -> None:
    files["query.txt"] = b"actor:u_2\n"


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
        (rewrite_query, "query.txt"),
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
        files.update({f"foreign{number:02}": b"" for number in range(FINDINGS_MAX - 3)})

    path = changed(write(tmp_path / "evidence.zip"), change)
    evidence = check_evidence(path, POLICY)
    assert len(evidence.faults) == FINDINGS_MAX - 1
    assert (evidence.events, evidence.span) == (1, (0, 0))
    path = changed(path, lambda files: files.update({f"more{n:02}": b"" for n in range(9)}))
    faults = check_evidence(path, POLICY).faults
    assert len(faults) == FINDINGS_MAX + 1
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
    assert check_evidence(path, POLICY).notes == check_evidence(path, both).notes
    files = {"policy": format_policy([stranger.signer.verifier]).encode()}
    changed(path, lambda inside: inside.update(files))
    assert any("none of your policy's log keys" in n for n in check_evidence(path, POLICY).notes)


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
