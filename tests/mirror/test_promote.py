"""A promoted mirror is a ledger of its own, on which clients, witnesses and evidence go on."""

from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.cli.recover import command as recover
from ledger.mirror.data_dir import MirrorPaths
from ledger.mirror.promotion import add_log_key, promote
from ledger.service.data_dir import DirectoryPaths
from ledger.service.fsck import check_directory
from ledger.service.recovery import known_heads
from ledger.service.token_admin import make_token
from ledger.witness.data_dir import WitnessPaths
from ledger.witness.store import HeadStore
from ledger_client import LedgerClient
from ledger_client.state_file import StateFile
from ledger_core.event.model import Actor, Event
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.proof import check_leaf, parse_proof
from tests.mirror.mirroring import (
    SIGNER,
    make_mirror,
    mirroring,
    ready,
    state,
    wait_published,
)
from tests.service.check_log import check_log
from tests.service.serving import ORIGIN, Ledger, event, make_ledger, send, serving
from tests.waiting import until
from tests.witness.witnesses import SIGNERS, make_witness, serve_witness

SEED = b"p" * 32
SEED_KEY = Signer.generate(ORIGIN, seed=SEED).verifier


def _event(actor: str) -> Event:
    return Event(action="record.viewed", actor=Actor(id=actor), outcome="success")


def test_clients_witnesses_and_evidence_go_on_with_a_promoted_mirror(tmp_path: Path) -> None:
    directory, folder, witness = tmp_path / "ledger", tmp_path / "mirror", tmp_path / "w1"
    tokens = make_ledger(directory)
    policy_file = DirectoryPaths(directory).policy
    (log,) = parse_policy(policy_file.read_bytes()).logs
    old_key = str(log.verifier)

    class Known:
        origin, vkey = ORIGIN, old_key

    paths = make_witness(witness, [Known()], signers=SIGNERS[:1])
    with serve_witness(witness) as running:
        logs = policy_file.read_text().replace("quorum none\n", "")
        vkey = SIGNERS[0].verifier
        policy_file.write_text(f"{logs}witness w1 {vkey} {running.url}\nquorum w1\n")
        with serving(directory, tokens) as ledger:
            own = make_mirror(folder, ledger)
            with mirroring(folder, own) as mirror:
                state_file = tmp_path / "state.json"
                with LedgerClient(
                    ledger.url, tokens["admin"], policy=policy_file, state=state_file
                ) as client:
                    receipt = client.append(_event("u_1"))
                size = state(ledger)["tree_size"]
                wait_published(mirror, size)
                evidence = mirror.ask(f"/v1/events/{receipt.index}?proof=1").json()
        # The log's host is gone for good.
        made = promote(MirrorPaths(folder), make_seed=lambda: SEED)
        assert (made.tree_size, made.published_size, made.origin) == (size, size, ORIGIN)
        token = make_token(folder, name="app", scopes=("append", "read"), tenant=None)
        with closing(HeadStore.open(paths.heads, readonly=False)) as heads:
            heads.add_log(ORIGIN, [made.verifier_key])
        new_policy = DirectoryPaths(folder).policy
        with serving(folder, {**own, "app": token}) as ledger:
            with LedgerClient(ledger.url, token, policy=new_policy, state=state_file) as client:
                receipt = client.append(_event("u_2"))
                # Behind the entries of the log and the events of the mirror's own life.
                assert receipt.index > size
                assert [e.event.actor.id for e in client.query("actor:u_1")] == ["u_1"]
                promoted = list(client.query("action:ledger.mirror.promoted"))
                assert [each.index >= size for each in promoted] == [True]
            final = check_log(ledger.url, token, parse_policy(new_policy.read_bytes()))
            assert final.head.log_key == made.verifier_key
            # A client that has accepted a head of the new key needs the old one no more.
            lines = new_policy.read_text().splitlines(keepends=True)
            without = tmp_path / "policy"
            without.write_text("".join(each for each in lines if old_key not in each))
            with LedgerClient(ledger.url, token, policy=without, state=state_file) as client:
                assert client.append(_event("u_3")).index == receipt.index + 1
    # Evidence of before verifies by the old policy and by the new one.
    proof = parse_proof(evidence["proof"])
    for policy in (policy_file, new_policy):
        head = parse_policy(policy.read_bytes()).check(proof.checkpoint)
        check_leaf(proof, leaf_hash(evidence["leaf"].encode()), head)
    assert check_directory(DirectoryPaths(folder)).problems == []


@pytest.fixture
def folder(tmp_path: Path, ledger: Ledger) -> Path:
    """A mirror that has never run."""
    folder = tmp_path / "mirror"
    make_mirror(folder, ledger)
    return folder


def test_a_mirror_that_runs_is_not_promoted(tmp_path: Path, ledger: Ledger) -> None:
    folder = tmp_path / "mirror"
    with mirroring(folder, make_mirror(folder, ledger)), pytest.raises(UnavailableError):
        promote(MirrorPaths(folder), make_seed=lambda: SEED)
    assert MirrorPaths(folder).is_mirror
    assert not DirectoryPaths(folder).key.exists()


def test_an_interrupted_promotion_is_finished_with_the_same_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = MirrorPaths(folder)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda _path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promote(paths, make_seed=lambda: SEED)
    first = DirectoryPaths(folder).key.read_bytes()
    promote(paths, make_seed=lambda: b"q" * 32)
    assert DirectoryPaths(folder).key.read_bytes() == first
    assert DirectoryPaths(folder).policy.read_text().count("log ") == 2
    with pytest.raises(UnavailableError, match="is no mirror"):
        promote(paths, make_seed=lambda: SEED)


def test_a_mirror_that_knows_what_it_lacks_gives_no_index_twice(
    tmp_path: Path, ledger: Ledger
) -> None:
    folder = tmp_path / "mirror"
    paths, tokens = MirrorPaths(folder), make_mirror(folder, ledger)
    ledger.append(event())
    with mirroring(folder, tokens) as mirror:
        wait_published(mirror, state(ledger)["tree_size"])
        held = state(mirror)["tree_size"]
    ledger.append(event(), event())
    until(lambda: state(ledger)["published_size"] >= held + 2, "more is published")
    # A mirror that was killed when it had accepted that head, and had not fetched its entries.
    policy = parse_policy(paths.ledger.policy.read_bytes())
    note = send(ledger.url, "/checkpoint", method="GET", body=None, headers={}).text
    StateFile(paths.head, policy=policy, monotonic_s=lambda: 0.0).save(note)
    made = promote(paths, make_seed=lambda: SEED)
    assert made.held is not None
    assert f"this mirror held {held} of them" in made.held
    token = make_token(folder, name="app", scopes=("append", "read"), tenant=None)
    with serving(folder, {"admin": token}) as promoted:
        assert promoted.append(event()).slug == "log-held"
    known = known_heads(paths.ledger, ask=False)
    assert (known.heads[0].by, known.heads[0].is_missing) == ("this mirror", True)


def test_the_old_host_that_comes_back_is_shut_out_by_its_key(
    tmp_path: Path, ledger: Ledger
) -> None:
    folder = tmp_path / "mirror"
    paths, tokens = MirrorPaths(folder), make_mirror(folder, ledger)
    ledger.append(event())
    with mirroring(folder, tokens) as mirror:
        wait_published(mirror, state(ledger)["tree_size"])
    assert promote(paths, make_seed=lambda: SEED).held is None
    token = make_token(folder, name="app", scopes=("append", "read"), tenant=None)
    theirs = old_head(ledger)
    with serving(folder, {"admin": token}) as promoted:
        assert promoted.append(event()).status == 200
        promoted.ask("/v1/checkpoints", method="POST", body=theirs, token=None)
        assert promoted.append(event()).slug == "log-held"
    # Its key goes, and a person decides for the new ledger.
    forget_old_key(paths.ledger)
    done = CliRunner().invoke(recover, [str(folder), "--accept"], standalone_mode=False)
    assert done.return_value == 0, done.output
    with serving(folder, {"admin": token}) as promoted:
        shown = promoted.ask("/v1/checkpoints", method="POST", body=theirs, token=None)
        assert shown.status == 422
        assert promoted.append(event()).status == 200


def test_a_mirror_that_the_old_host_stopped_goes_on_without_its_key(
    tmp_path: Path, ledger: Ledger
) -> None:
    folder, second = tmp_path / "mirror", MirrorPaths(tmp_path / "second")
    paths, tokens = MirrorPaths(folder), make_mirror(folder, ledger)
    with mirroring(folder, tokens) as mirror:
        wait_published(mirror, state(ledger)["tree_size"])
    promote(paths, make_seed=lambda: SEED)
    app = make_token(folder, name="app", scopes=("append", "read"), tenant=None)
    theirs = old_head(ledger)
    with serving(folder, {"admin": app, "read": app}) as promoted:
        promoted.append(*(event() for _ in range(20)))
        tokens = make_mirror(second.root, promoted)
        with mirroring(second.root, tokens) as mirror:
            wait_published(mirror, state(promoted)["tree_size"])
            mirror.ask("/v1/checkpoints", method="POST", body=theirs, token=None)
            assert "follows no more" in ready(mirror)["reasons"][0]
        forget_old_key(second.ledger)
        second.stopped.unlink()
        promoted.append(event())
        with mirroring(second.root, tokens) as mirror:
            wait_published(mirror, state(promoted)["tree_size"])
            shown = mirror.ask("/v1/checkpoints", method="POST", body=theirs, token=None)
            assert shown.status == 422
            assert ready(mirror)["status"] == "ready"


def old_head(ledger: Ledger) -> bytes:
    """The head of an old host that was not gone: it gives the indices that the new ledger gives."""
    size = state(ledger)["tree_size"] + 10
    ledger.append(*(event() for _ in range(10)))
    until(lambda: state(ledger)["published_size"] >= size, "the old host publishes")
    return send(ledger.url, "/checkpoint", method="GET", body=None, headers={}).body


def forget_old_key(paths: DirectoryPaths) -> None:
    """Take the line of the old key out of a policy."""
    lines = paths.policy.read_text().splitlines(keepends=True)
    kept = [each for each in lines if str(SEED_KEY) in each or not each.startswith("log ")]
    paths.policy.write_text("".join(kept))


def test_a_policy_that_the_new_ledger_could_not_meet_is_refused(
    folder: Path, ledger: Ledger
) -> None:
    policy = DirectoryPaths(folder).policy.read_text()
    own = policy.replace("quorum none", f"witness m1 {SIGNER.verifier} http://m\nquorum m1")
    other = policy.replace(policy.split()[1], str(SIGNERS[0].verifier))
    for text in (own, "quorum none\n", other):
        with pytest.raises(MalformedError):
            promote(MirrorPaths(folder), make_seed=lambda: SEED, policy=text.encode())
    assert MirrorPaths(folder).is_mirror
    assert add_log_key(policy.encode(), policy.split()[1]) == policy.encode()
    assert WitnessPaths(folder / "cosigner").heads.exists()
