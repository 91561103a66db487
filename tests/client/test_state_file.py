"""The accepted head on disk: it survives, it is checked, and it is never another log's."""

import json
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from ledger_client import state_file as state_file_module
from ledger_client.state_file import EVIDENCE_FOLDERS_MAX, SAVE_INTERVAL_S, StateFile
from ledger_core.tlog.checkpoint import Checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.policy import Policy, parse_policy
from tests.client.trees import SmallLog, numbered

LOG = SmallLog(numbered(20))


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def state_file(path: Path, policy: Policy = LOG.policy, clock: Clock | None = None) -> StateFile:
    return StateFile(path, policy=policy, monotonic_s=clock or Clock())


def test_there_is_no_head_before_the_first_was_saved(tmp_path: Path) -> None:
    assert state_file(tmp_path / "state").load() is None


def test_a_saved_head_is_read_back(tmp_path: Path) -> None:
    state_file(tmp_path / "state").save(LOG.note(7))
    state_file(tmp_path / "state").save(LOG.note(9))
    assert state_file(tmp_path / "state").load() == LOG.note(9)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    state_file(tmp_path / "state").save(LOG.note(7))
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600


def test_a_head_of_another_log_is_refused_by_name(tmp_path: Path) -> None:
    other = SmallLog(numbered(5), key="another key")
    state_file(tmp_path / "state", other.policy).save(other.note())
    with pytest.raises(ValueError, match=r"state keeps the head of a log with another key"):
        state_file(tmp_path / "state").load()


def test_a_changed_head_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state_file(path).save(LOG.note(7))
    path.write_text(path.read_text().replace("\\n7\\n", "\\n8\\n"))
    with pytest.raises(VerificationError, match=r"state holds a head that no log"):
        state_file(path).load()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 1}', '{"version": 2, "log_keys": [], "checkpoint": ""}', "\xff",
     '{"version": 1, "log_keys": [], "checkpoint": "\xff"}'],
)  # fmt: skip
def test_a_file_that_no_client_wrote_is_malformed(tmp_path: Path, text: str) -> None:
    (tmp_path / "state").write_text(text, encoding="latin-1")
    with pytest.raises(MalformedError, match="state"):
        state_file(tmp_path / "state").load()


def test_a_checkpoint_that_is_no_note_is_malformed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state_file(path).save(LOG.note(7))
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "checkpoint": "nothing"}))
    with pytest.raises(MalformedError, match="holds no signed head"):
        state_file(path).load()


def test_an_endless_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b" " * (2 << 20))
    with pytest.raises(MalformedError, match="too long"):
        state_file(tmp_path / "state").load()


def test_a_policy_that_gains_a_witness_keeps_the_head(tmp_path: Path) -> None:
    state_file(tmp_path / "state").save(LOG.note(7))
    witness = CosignatureSigner.generate(
        "witness.example/w", algorithm=ED25519_COSIGNATURE, seed=bytes(32)
    ).verifier
    text = f"log {LOG.signer.verifier}\nwitness w {witness}\nquorum w\n"
    assert state_file(tmp_path / "state", parse_policy(text.encode())).load() == LOG.note(7)


def test_a_policy_that_gains_a_key_keeps_the_head(tmp_path: Path) -> None:
    state_file(tmp_path / "state").save(LOG.note(7))
    other = SmallLog([], key="the next key")
    text = f"log {other.signer.verifier}\nlog {LOG.signer.verifier}\nquorum none\n"
    assert state_file(tmp_path / "state", parse_policy(text.encode())).load() == LOG.note(7)


def test_the_file_is_written_at_most_once_in_an_interval(tmp_path: Path) -> None:
    clock = Clock()
    state = state_file(tmp_path / "state", clock=clock)
    assert state.is_due(LOG.note(7))
    state.save(LOG.note(7))
    assert not state.is_due(LOG.note(8))
    clock.now_s = SAVE_INTERVAL_S
    assert not state.is_due(LOG.note(7))
    assert state.is_due(LOG.note(8))


def test_a_head_that_can_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    state = state_file(folder / "state")
    state.save(LOG.note(7))
    (folder / "state").unlink()
    (folder / "state").mkdir()
    with pytest.raises(OSError, match="state"):
        state.save(LOG.note(8))
    assert [path.name for path in folder.iterdir()] == ["state"]


def test_evidence_is_saved_beside_the_file_and_once(tmp_path: Path) -> None:
    state = state_file(tmp_path / "state")
    evidence = {"accepted.note": b"a", "offered.note": b"b"}
    folder = state.save_evidence(evidence)
    assert folder is not None
    assert folder == state.save_evidence(evidence)
    assert folder.parent == tmp_path / "state.evidence"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == evidence
    assert folder != state.save_evidence({"accepted.note": b"a", "offered.note": b"c"})


def test_evidence_does_not_fill_the_disk(tmp_path: Path) -> None:
    state = state_file(tmp_path / "state")
    for number in range(EVIDENCE_FOLDERS_MAX):
        assert state.save_evidence({"note": str(number).encode()}) is not None
    assert state.save_evidence({"note": b"one more"}) is None
    assert state.save_evidence({"note": b"0"}) is not None
    folder = tmp_path / "state.evidence"
    assert len(list(folder.iterdir())) == EVIDENCE_FOLDERS_MAX


def test_large_evidence_does_not_fill_the_disk_and_the_last_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file_module, "EVIDENCE_BYTES_MAX", 1000)
    state = state_file(tmp_path / "state")
    assert state.save_evidence({"bundle": b"a" * 600}) is not None
    assert state.save_evidence({"bundle": b"b" * 600}) is None
    assert state.save_evidence({"bundle": b"a" * 600}) is not None
    assert state.save_evidence({"bundle": b"c" * 600}, is_final=True) is not None


def forked(number: int, size: int = 20) -> dict[str, bytes]:
    """Two heads that the log has signed; of 20 entries they have two roots at one size."""
    other = LOG.sign(Checkpoint(LOG.signer.verifier.name, size, sha256(b"%d" % number).digest()))
    return {"accepted.note": LOG.note(20).encode(), "offered.note": other.encode()}


@pytest.mark.parametrize(("size", "kind"), [(20, "forked-"), (19, "unproven-")])
def test_the_newest_fork_is_kept_after_any_number_of_lies_and_forks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, kind: str
) -> None:
    monkeypatch.setattr(state_file_module, "EVIDENCE_FOLDERS_MAX", 4)
    monkeypatch.setattr(state_file_module, "EVIDENCE_BYTES_MAX", 1000)
    state, folder = state_file(tmp_path / "state"), tmp_path / "state.evidence"
    while state.save_evidence({"note": str(len(list(folder.glob("*")))).encode()}) is not None:
        pass
    lies = set(folder.iterdir())
    saved = [state.save_evidence(forked(number, size)) for number in range(9)]
    assert all(each is not None and each.name.startswith(kind) for each in saved)
    assert set(folder.iterdir()) == lies | {*saved[:2], *saved[-2:]}
    # The other kind has places of its own, and an unsigned head is no fork.
    assert state.save_evidence(forked(0, 39 - size)) is not None
    assert len(set(folder.iterdir())) == len(lies) + 5
    unsigned = forked(1)["offered.note"].replace(b"\n20\n", b"\n21\n")
    assert state.save_evidence(forked(1) | {"offered.note": unsigned}) is None
    same = {"accepted.note": LOG.note(20).encode(), "offered.note": LOG.note(20).encode()}
    assert state.save_evidence(same) is None
