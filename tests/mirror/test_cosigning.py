"""A mirror cosigns the heads whose entries it holds: a quorum with it means 'on another host'."""

from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from ledger.mirror import cosigner
from ledger.runtime.keys import read_keys
from ledger.service.data_dir import DirectoryPaths
from ledger.store.log import LogStore
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
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
from tests.service.serving import Ledger, event, make_ledger, serving
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
