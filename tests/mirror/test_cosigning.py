"""A mirror cosigns the heads whose entries it holds: a quorum with it means 'on another host'."""

from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from ledger.mirror import cosigner
from ledger.mirror.data_dir import MirrorConfig, MirrorPaths, accept_log_keys, create_mirror
from ledger.runtime.keys import read_keys
from ledger.service.data_dir import DirectoryPaths
from ledger.store.log import LogStore
from ledger.witness.data_dir import WitnessPaths
from ledger.witness.known_log import LOG_KEYS_MAX
from ledger.witness.store import HeadStore
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.witness import AddCheckpoint, format_add_checkpoint
from tests.mirror.mirroring import (
    SIGNER,
    listening,
    make_mirror,
    mirroring,
    ready,
    state,
    wait_published,
)
from tests.service.check_log import check_ledger
from tests.service.serving import ORIGIN, Ledger, event, make_ledger, serving
from tests.waiting import until
from tests.witness.asking import add_checkpoint, ask, check_cosigned

Pair = tuple[Path, dict[str, str], Path, dict[str, str], str]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A ledger and its mirror, each with a port of its own; the mirror has caught up."""
    directory, folder = tmp_path / "ledger", tmp_path / "mirror"
    tokens = make_ledger(directory)
    with serving(directory, tokens) as ledger:
        own = make_mirror(folder, ledger)
        with mirroring(folder, own) as mirror:
            wait_published(mirror, state(ledger)["tree_size"])
    port = ledger.url.rpartition(":")[2]
    return directory, tokens, folder, own, port


def _require(mirror: Ledger, *folders: Path) -> None:
    """Make the mirror the quorum in the policies of these folders."""
    for folder in folders:
        path = DirectoryPaths(folder).policy
        logs = path.read_text().replace("quorum none\n", "")
        path.write_text(f"{logs}witness m1 {SIGNER.verifier} {mirror.url}\nquorum m1\n")
        parse_policy(path.read_bytes())


def _log_key(number: int) -> str:
    """The line of a policy with a further key of the log."""
    return f"log {Signer.generate(ORIGIN, seed=bytes([number]) * 32).verifier}\n"


def test_the_mirror_cosigns_by_the_keys_of_its_policy_however_often_they_are_rotated(
    pair: Pair,
) -> None:
    directory, tokens, folder, own, port = pair
    path, heads = DirectoryPaths(folder).policy, WitnessPaths(MirrorPaths(folder).cosigner).heads
    before = path.read_text()
    for start in range(0, 20, 5):
        added = "".join(_log_key(number) for number in range(start, start + 5))
        path.write_text(before.replace("quorum none\n", f"{added}quorum none\n"))
        with closing(HeadStore.open(heads, readonly=False)) as store:
            accept_log_keys(store, path.read_bytes())
            log = store.log(ORIGIN)
            assert log is not None
            wanted = [str(each.verifier) for each in parse_policy(path.read_bytes()).logs]
            assert sorted(log.vkeys) == sorted(wanted)
    with serving(directory, tokens, listening(port)) as ledger, mirroring(folder, own) as mirror:
        ledger.append(event())
        wait_published(mirror, state(ledger)["tree_size"])


def test_a_policy_with_too_many_keys_of_the_log_is_refused_by_name(
    tmp_path: Path, pair: Pair
) -> None:
    path = DirectoryPaths(pair[2]).policy
    added = "".join(map(_log_key, range(LOG_KEYS_MAX)))
    many = path.read_text().replace("quorum none\n", f"{added}quorum none\n").encode()
    config = MirrorConfig(log_url="http://127.0.0.1:1", insecure=True)
    with pytest.raises(MalformedError, match=f"has 1 to {LOG_KEYS_MAX} keys"):
        create_mirror(tmp_path / "other", config, many, [SIGNER])
    assert not (tmp_path / "other").exists()


def test_a_key_that_the_last_head_needs_stays_until_another_one_signs(pair: Pair) -> None:
    directory, tokens, folder, own, port = pair
    with mirroring(folder, own) as mirror:
        mirror_port = mirror.url.rpartition(":")[2]
    _require(mirror, directory, folder)
    with (
        serving(directory, tokens, listening(port)) as ledger,
        mirroring(folder, own, listening(mirror_port)) as mirror,
    ):
        ledger.append(event())
        until(lambda: state(ledger)["published_size"] == state(ledger)["tree_size"])
    path = DirectoryPaths(folder).policy
    before = parse_policy(path.read_bytes()).logs[0]
    new = path.read_text().replace(f"log {before.verifier}\n", _log_key(1))
    with closing(
        HeadStore.open(WitnessPaths(MirrorPaths(folder).cosigner).heads, readonly=False)
    ) as store:
        accept_log_keys(store, new.encode())
        log = store.log(ORIGIN)
        assert log is not None
        assert str(before.verifier) in log.vkeys
        assert store.check_rows() == []


def test_a_witnessed_append_is_durable_on_the_mirror(pair: Pair) -> None:
    directory, tokens, folder, own, port = pair
    with mirroring(folder, own) as mirror:
        mirror_port = mirror.url.rpartition(":")[2]
    _require(mirror, directory, folder)
    quick = structs.replace(listening(port), witnessed_wait_s=60.0)
    with serving(directory, tokens, quick) as ledger:
        assert state(ledger)["published_size"] == 6
        with mirroring(folder, own, listening(mirror_port)) as mirror:
            for _ in range(3):
                answer = ledger.append(event(), query="?wait=witnessed&proof=1")
                assert answer.json()["witnessed"] is True, answer.text
                # Asked at once: it had the event before the log answered.
                assert state(mirror)["tree_size"] == answer.json()["results"][0]["index"] + 1
            assert "— example.com/audit/mirror " in ledger.ask("/checkpoint").text
            wait_published(mirror, 9)
            assert ready(mirror)["status"] == "ready"
        # The quorum needs the mirror: without it the event is durable here, and not witnessed.
        impatient = ledger.append(event(), query="?proof=0")
        assert impatient.status == 200
        assert state(ledger)["published_size"] == 9
        with mirroring(folder, own, listening(mirror_port)) as mirror:
            wait_published(ledger, 10)
            wait_published(mirror, 10)
            assert check_ledger(mirror).leaves == check_ledger(ledger).leaves


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrors that don't wait for entries."""
    monkeypatch.setattr(cosigner.Cosigner.__init__, "__kwdefaults__", {"wait_s": 0.01})


@pytest.mark.usefixtures("impatient")
def test_only_a_head_whose_entries_are_held_is_cosigned(pair: Pair) -> None:
    directory, _, folder, own, _ = pair
    key = read_keys(directory / "key", keys_max=1)[0]
    with closing(LogStore.open(directory / "log")) as store:
        head = store.head()

    def body(size: int, root: bytes, *, old: int = 0) -> tuple[bytes, str]:
        checkpoint = Checkpoint("example.com/audit", size, root)
        signed = SignedCheckpoint(checkpoint, (Signer(key).sign(format_checkpoint(checkpoint)),))
        return format_add_checkpoint(AddCheckpoint(old, (), signed)), signed.note

    with mirroring(folder, own) as mirror:
        # The log is gone, so nobody can bring the entries of a larger head.
        answer = add_checkpoint(mirror.url, body(7, b"7" * 32)[0])
        assert (answer.status, answer.body) == (503, b"this mirror holds 6 of 7 entries\n")
        assert add_checkpoint(mirror.url, b"junk").status == 400
        assert add_checkpoint(mirror.url, body(7, b"7" * 32, old=5)[0]).status == 409
        offered, note = body(6, head.root_hash)
        assert check_cosigned(add_checkpoint(mirror.url, offered), note, [str(SIGNER.verifier)])
        origin_hash = "4ab3f2e6" * 8
        assert ask(mirror.url, "GET", f"/{origin_hash}/checkpoint").status == 404
        # Another tree of a size that is held: a fork, which is kept and ends the following.
        forked = add_checkpoint(mirror.url, body(6, b"6" * 32, old=6)[0])
        assert forked.status == 422
        until(lambda: "follows no more" in str(ready(mirror).get("reasons")), "a stop")
    assert [each.name for each in (folder / "evidence").glob("*/offered.note")] == ["offered.note"]
