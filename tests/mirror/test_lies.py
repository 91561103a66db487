"""A log that lies: the mirror keeps the evidence, keeps nothing else of it, and says so."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.mirror import catch_up
from ledger.mirror.data_dir import MirrorPaths
from ledger.mirror.follower import BACKOFF_BASE_S
from ledger.mirror.replica import read_stop
from ledger.mirror.state import read_status
from ledger_client import state_file
from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from tests.client.liar import Liar, Message
from tests.mirror.mirroring import listening, make_mirror, mirroring, ready, state, wait_published
from tests.service.check_log import check_ledger
from tests.service.serving import Ledger, event, make_ledger, serving
from tests.waiting import until

Restored = tuple[Path, dict[str, str], Path, dict[str, str], str, int]


@pytest.fixture
def restored(tmp_path: Path) -> Restored:
    """A mirror of 306 entries of a log whose folder has been replaced by a copy with 6."""
    directory, old, folder = tmp_path / "ledger", tmp_path / "old", tmp_path / "mirror"
    tokens = make_ledger(directory)
    with serving(directory, tokens):
        pass
    shutil.copytree(directory, old)
    with serving(directory, tokens) as ledger:
        own = make_mirror(folder, ledger)
        with mirroring(folder, own) as mirror:
            ledger.append(*(event() for _ in range(300)))
            size = state(ledger)["tree_size"]
            wait_published(mirror, size)
    shutil.rmtree(directory)
    old.rename(directory)
    return directory, tokens, folder, own, ledger.url.rpartition(":")[2], size


def _evidence(folder: Path) -> list[set[str]]:
    return [{file.name for file in each.iterdir()} for each in (folder / "evidence").iterdir()]


def test_a_fork_stops_the_mirror_for_good_on_its_own_branch(
    restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, tokens, folder, own, port, size = restored
    # The evidence of a fork is kept after any number of smaller lies.
    monkeypatch.setattr(state_file, "EVIDENCE_FOLDERS_MAX", 0)
    with serving(directory, tokens, listening(port)) as log:
        log.append(*(event() for _ in range(400)))
        with mirroring(folder, own) as mirror:
            until(lambda: "forked" in str(ready(mirror).get("reasons")), "a fork")
            assert state(mirror)["published_size"] == size
            assert mirror.ask("/v1/events/200?proof=1").status == 200
    stopped = read_stop(MirrorPaths(folder))
    assert stopped is not None
    evidence = Path(stopped.evidence)
    assert {"accepted.note", "offered.note", "verdict.txt"} <= {e.name for e in evidence.iterdir()}
    notes = [(evidence / f"{name}.note").read_bytes() for name in ("accepted", "offered")]
    assert [parse_signed_checkpoint(note).head.tree_size for note in notes] == [size, 406]
    # It stays so after a start, whatever the log shows then.
    with mirroring(folder, own) as mirror:
        assert "follows no more since" in str(ready(mirror)["reasons"])
        assert check_ledger(mirror).size == size


def test_a_head_that_shrank_is_evidence_and_the_log_is_shown_what_it_lost(
    restored: Restored,
) -> None:
    directory, tokens, folder, own, port, size = restored
    with serving(directory, tokens, listening(port)) as log, mirroring(folder, own) as mirror:
        until(lambda: "after one of 306" in str(ready(mirror).get("reasons")), "a small head")
        until(lambda: log.append(event()).status == 503, "a held log")
        assert log.append(event()).slug == "log-held"
        assert check_ledger(mirror).size == size
    assert {"accepted.note", "offered.note", "verdict.txt"} in _evidence(folder)
    assert read_stop(MirrorPaths(folder)) is None


def _withheld(message: Message) -> None:
    message.status, message.body = 404, b'{"title":"no","status":404,"detail":"gone"}'


def _changed(message: Message) -> None:
    message.body = message.body.replace(b"u_77", b"u_78", 1)


def _not_a_bundle(message: Message) -> None:
    message.body = message.body[:-1]


@pytest.fixture
def liar(ledger: Ledger) -> Iterator[Liar]:
    """A way to the log that has no stream: bundles are all there is."""

    def no_stream(message: Message) -> None:
        if "/stream" in message.target:
            message.target = "/nothing"

    with Liar(ledger.url) as liar:
        liar.lie_to_service = no_stream
        yield liar


@pytest.mark.parametrize("lie", [_withheld, _changed, _not_a_bundle])
def test_a_false_bundle_is_evidence_and_never_kept(
    tmp_path: Path, ledger: Ledger, liar: Liar, lie: Callable[[Message], Any]
) -> None:
    def tell(message: Message) -> None:
        if message.target.startswith("/tile/entries/001") and message.status == 200:
            lie(message)

    liar.lie_to_client = tell
    ledger.append(*(event(actor={"id": "u_77"}) for _ in range(300)))
    wait_published(ledger, 306)
    folder = tmp_path / "mirror"
    with mirroring(folder, make_mirror(folder, ledger, url=liar.url)) as mirror:
        until(lambda: "entries is untrue" in str(ready(mirror).get("reasons")), "a lie")
        assert state(mirror)["tree_size"] in (0, 256)
        until(lambda: bool(read_status(folder / "status.json").untrue), "the status file")
        assert any("checkpoint.note" in names for names in _evidence(folder))
        liar.lie_to_client = lambda _said: None
        wait_published(mirror, 306)
        until(lambda: ready(mirror)["status"] == "ready", "the truth")
        assert check_ledger(mirror).leaves == check_ledger(ledger).leaves


@pytest.mark.parametrize("lie", [_withheld, _changed, _not_a_bundle])
def test_what_came_before_a_false_bundle_is_kept_while_it_is_checked(
    tmp_path: Path,
    ledger: Ledger,
    liar: Liar,
    lie: Callable[[Message], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leaves are checked while those before them are stored: each commit stands for itself."""
    monkeypatch.setattr(catch_up, "BUNDLES_MAX", 1)

    def tell(message: Message) -> None:
        if message.target.startswith("/tile/entries/002") and message.status == 200:
            lie(message)

    liar.lie_to_client = tell
    ledger.append(*(event(actor={"id": "u_77"}) for _ in range(900)))
    wait_published(ledger, 906)
    folder = tmp_path / "mirror"
    with mirroring(folder, make_mirror(folder, ledger, url=liar.url)) as mirror:
        until(lambda: "entries is untrue" in str(ready(mirror).get("reasons")), "a lie")
        until(lambda: state(mirror)["tree_size"] == 512, "the bundles before it")
        assert any("checkpoint.note" in names for names in _evidence(folder))
        liar.lie_to_client = lambda _said: None
        wait_published(mirror, 906)
        assert check_ledger(mirror).leaves == check_ledger(ledger).leaves


def test_a_mirror_is_ready_again_when_the_stream_brings_what_was_withheld(
    tmp_path: Path, ledger: Ledger, liar: Liar
) -> None:
    def tell(message: Message) -> None:
        if message.target.startswith("/tile/"):
            _withheld(message)

    liar.lie_to_client = tell
    ledger.append(event())
    folder = tmp_path / "mirror"
    with mirroring(folder, make_mirror(folder, ledger, url=liar.url)) as mirror:
        until(lambda: "entries is untrue" in str(ready(mirror).get("reasons")), "a lie")
        liar.lie_to_service = lambda _asked: None  # From here on there is a stream.
        wait_published(mirror, state(ledger)["published_size"])
        until(lambda: ready(mirror)["status"] == "ready", "the truth")


def test_a_log_that_does_not_wait_for_a_new_head_is_asked_with_pauses(
    tmp_path: Path, ledger: Ledger, liar: Liar
) -> None:
    def at_once(message: Message) -> None:
        message.target = message.target.replace("&wait=1", "")

    liar.lie_to_service = at_once
    ledger.append(event())
    folder = tmp_path / "mirror"
    with mirroring(folder, make_mirror(folder, ledger, url=liar.url)) as mirror:
        wait_published(mirror, state(ledger)["published_size"])
        start_s, before = time.monotonic(), len(_head_requests(liar))
        until(lambda: len(_head_requests(liar)) >= before + 6, "more requests")
        asked = len(_head_requests(liar)) - before
        assert asked <= (time.monotonic() - start_s) / BACKOFF_BASE_S + 2


def _head_requests(liar: Liar) -> list[str]:
    return [target for target in liar.targets if target.startswith("/v1/checkpoints?from=")]


def test_a_mirror_without_a_head_is_not_ready_and_says_why(tmp_path: Path, ledger: Ledger) -> None:
    folder = tmp_path / "mirror"
    with mirroring(folder, make_mirror(folder, ledger, url="http://127.0.0.1:1")) as mirror:
        said = "no head of the log was taken yet: "
        until(lambda: "127.0.0.1:1" in "".join(ready(mirror)["reasons"]), "why")
        assert ready(mirror)["reasons"][0].startswith(said)
        assert (ready(mirror)["status"], state(mirror)["tree_size"]) == (503, 0)
