"""A witness in this process, with a clock of the test's: what it remembers, and when it refuses."""

import asyncio
import shutil
import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path

import lmdb
import pytest
from structlog.testing import capture_logs

from ledger.log import group_commit
from ledger.runtime.keys import write_keys
from ledger.runtime.text_answer import Answer
from ledger.store.commit_errors import CommitFailedError
from ledger.store.environment import Environment
from ledger.witness import store as witness_store
from ledger.witness.app import open_witness, serve
from ledger.witness.data_dir import WitnessPaths
from ledger.witness.service import Witness
from ledger.witness.settings import WitnessSettings
from ledger.witness.store import HeadStore, HeadWriter, Outcome, Update
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.note import parse_note
from ledger_core.tlog.witness import SIZE_MEDIA
from tests.witness.asking import add_checkpoint, check_cosignatures
from tests.witness.logs import FORK, Log
from tests.witness.witnesses import SIGNERS, make_witness

NOW = 1_790_000_000
WAIT_S = 60.0
LOG = Log("example.com/log")
VKEYS = [str(signer.verifier) for signer in SIGNERS]


class Clock:
    """The time as the test sets it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_witness(tmp_path / "w", [LOG])
    return tmp_path / "w"


def opened(directory: Path, clock: Clock | None = None) -> AbstractAsyncContextManager[Witness]:
    return open_witness(directory, now=clock or Clock())


def cosigned(answer: Answer, note: str) -> int:
    """The one time that the cosignatures state."""
    assert answer.status == 200, answer
    (time_unix_s,) = set(check_cosignatures(answer.body.encode(), note, VKEYS))
    return time_unix_s


@pytest.mark.anyio
async def test_a_clock_that_runs_backwards_refuses_until_it_has_caught_up(directory: Path) -> None:
    clock = Clock()

    async with opened(directory, clock) as witness:
        assert cosigned(await witness.add_checkpoint(LOG.grow(0, 5)), LOG.note(5)) == NOW
        for now, status in [(NOW - 1, 503), (0, 503), (NOW, 200), (NOW - 200, 503)]:
            clock.now = now
            for tree_size in (5, 9):
                if status == 200 and tree_size == 9:
                    continue
                answer = await witness.add_checkpoint(LOG.grow(5, tree_size))
                assert answer.status == status, (now, answer)
        # What is wrong with a request is said first.
        assert (await witness.add_checkpoint(LOG.grow(4, 9))).status == 409

    async with opened(directory, clock) as witness:
        answer = await witness.add_checkpoint(LOG.grow(5, 9))
        assert answer.status == 503
        assert "200 s behind" in answer.body
        clock.now = NOW + 1
        assert cosigned(await witness.add_checkpoint(LOG.grow(5, 9)), LOG.note(9)) == NOW + 1


@pytest.mark.anyio
async def test_a_clock_that_was_set_ahead_while_the_witness_ran_refuses(directory: Path) -> None:
    clock, far = Clock(), NOW + 86_400
    async with opened(directory, clock) as witness:
        clock.now = far
        answer = await witness.add_checkpoint(LOG.grow(0, 5))
        assert answer.status == 503
        assert "the clock was set 86400 s ahead while this service ran" in answer.body
        assert witness.checkpoint(LOG.origin_hash) is None
        # A clock that is set back a little and then runs on is no reason to refuse.
        clock.now = NOW - 60
        assert cosigned(await witness.add_checkpoint(LOG.grow(0, 5)), LOG.note(5)) == NOW - 60
        clock.now = NOW + 200
        assert cosigned(await witness.add_checkpoint(LOG.grow(5, 9)), LOG.note(9)) == NOW + 200
        clock.now = NOW + 300
        assert "set 360 s ahead" in (await witness.add_checkpoint(LOG.grow(9, 12))).body
    # Started again with this clock, a person has looked at it.
    clock.now = far
    async with opened(directory, clock) as witness:
        assert cosigned(await witness.add_checkpoint(LOG.grow(9, 12)), LOG.note(12)) == far


@pytest.mark.anyio
async def test_another_log_is_not_held_up_by_the_clock_of_the_first(tmp_path: Path) -> None:
    clock, other = Clock(), Log("example.com/other")
    make_witness(tmp_path / "w", [LOG, other])

    async with opened(tmp_path / "w", clock) as witness:
        cosigned(await witness.add_checkpoint(LOG.grow(0, 5)), LOG.note(5))
        clock.now = NOW - 10
        assert cosigned(await witness.add_checkpoint(other.grow(0, 5)), other.note(5)) == NOW - 10


@pytest.mark.anyio
async def test_the_same_head_is_cosigned_again_at_a_later_time(directory: Path) -> None:
    clock = Clock()

    async with opened(directory, clock) as witness:
        first = await witness.add_checkpoint(LOG.grow(0, 5))
        again = await witness.add_checkpoint(LOG.grow(5, 5))
        # ML-DSA-44 signs another way each time: this is what was kept.
        assert again == first
        clock.now += 1
        later = await witness.add_checkpoint(LOG.grow(5, 5))
        assert cosigned(later, LOG.note(5)) == NOW + 1


@pytest.mark.anyio
async def test_a_hundred_requests_at_once_become_one_history(directory: Path) -> None:
    async with opened(directory) as witness:
        bodies = [LOG.grow(old, new) for old in range(10) for new in range(old + 1, old + 11)]
        answers = await asyncio.gather(*map(witness.add_checkpoint, bodies))
        size = 0
        for body, answer in zip(bodies, answers, strict=True):
            old = int(body.split(b"\n", 1)[0].removeprefix(b"old "))
            tree_size = int(body.partition(b"\n\n")[2].split(b"\n")[1])
            if answer.status == 200:
                assert old == size
                size = tree_size
            else:
                assert (answer.status, answer.content_type) == (409, SIZE_MEDIA)
                assert answer.body == f"{size}\n"
                assert old != size
        note = parse_note(witness.checkpoint(LOG.origin_hash) or "")
        assert note.text == LOG.text(size)


@pytest.mark.anyio
async def test_what_was_cosigned_is_known_after_a_restart(directory: Path) -> None:
    async with opened(directory) as witness:
        cosigned(await witness.add_checkpoint(LOG.grow(0, 5)), LOG.note(5))
    async with opened(directory) as witness:
        assert (await witness.add_checkpoint(LOG.grow(0, 9))).body == "5\n"
        cosigned(await witness.add_checkpoint(LOG.grow(5, 9)), LOG.note(9))


@pytest.mark.anyio
async def test_a_log_that_is_added_while_it_runs_is_known_at_once(directory: Path) -> None:
    other = Log("example.com/other")

    async with opened(directory) as witness:
        assert (await witness.add_checkpoint(other.grow(0, 5))).status == 404
        witness.store.add_log(other.origin, [other.vkey])
        cosigned(await witness.add_checkpoint(other.grow(0, 5)), other.note(5))


@pytest.mark.anyio
async def test_a_log_may_change_its_key(directory: Path) -> None:
    async with opened(directory) as witness:
        new = LOG.signed(LOG.text(5), LOG.stranger)
        assert (await witness.add_checkpoint(LOG.ask(0, new))).status == 403
        witness.store.add_log(LOG.origin, [str(LOG.stranger.verifier)])
        for note in (new, LOG.note(5)):
            size = 5 if witness.checkpoint(LOG.origin_hash) else 0
            assert (await witness.add_checkpoint(LOG.ask(size, note))).status == 200


@pytest.mark.anyio
async def test_a_fork_is_told_to_the_operator_with_both_heads(directory: Path) -> None:
    forked = Log(LOG.origin, FORK)

    async with opened(directory) as witness:
        await witness.add_checkpoint(LOG.grow(0, 9))
        with capture_logs() as lines:
            # With whatever old size it comes.
            assert (await witness.add_checkpoint(forked.grow(9, 9))).status == 422
            assert (await witness.add_checkpoint(forked.grow(5, 9))).status == 409
        assert [line["event"] for line in lines] == ["log_forked"] * 2
        for line in lines:
            assert line["log_level"] == "critical"
            assert parse_note(line["cosigned_note"]).text == LOG.text(9)
            assert line["refused_note"] == forked.note(9)


@pytest.mark.anyio
async def test_a_store_of_other_keys_is_refused(directory: Path) -> None:
    other = CosignatureSigner.generate("example.com/w2", algorithm=4, seed=b"o" * 32)
    (directory / "key").unlink()
    write_keys(directory / "key", [other.key])
    with pytest.raises(MalformedError, match="second history"):
        async with opened(directory):
            pass


@pytest.mark.anyio
async def test_a_key_that_others_can_read_is_refused(directory: Path) -> None:
    (directory / "key").chmod(0o644)
    with pytest.raises(UnavailableError, match="0644"):
        async with opened(directory):
            pass


@pytest.mark.anyio
async def test_a_witness_without_its_memory_does_not_begin_anew(directory: Path) -> None:
    for file in (directory / "heads").iterdir():
        file.unlink()
    with pytest.raises(UnavailableError):
        async with opened(directory):
            pass


@pytest.mark.parametrize(
    ("origin", "vkeys", "message"),
    [
        ("example.com/x", [VKEYS[0]], "signature type"),
        ("witness.example/w1", [VKEYS[1]], "public key of this witness"),
        ("example.com/x\ny", [LOG.vkey], "two lines"),
        ("", [LOG.vkey], "empty"),
        ("x" * 256, [LOG.vkey], "at most 255"),
        ("example.com/x", ["example.com/x+00000000+AQ=="], "public key"),
    ],
)
def test_a_log_that_can_not_be_one_is_refused(
    directory: Path, origin: str, vkeys: list[str], message: str
) -> None:
    with closing(HeadStore.open(WitnessPaths(directory).heads, readonly=False)) as store:
        before = store.logs()
        with pytest.raises(ValueError, match=message):
            store.add_log(origin, vkeys)
        assert store.logs() == before


@pytest.mark.anyio
async def test_an_older_copy_of_the_heads_is_refused(directory: Path, tmp_path: Path) -> None:
    heads, older = WitnessPaths(directory).heads, tmp_path / "older"
    shutil.copytree(heads, older)
    async with opened(directory) as witness:
        cosigned(await witness.add_checkpoint(LOG.grow(0, 5)), LOG.note(5))
    shutil.rmtree(heads)
    shutil.copytree(older, heads)
    with pytest.raises(MalformedError, match="an older copy was put back"):
        async with opened(directory):
            pass
    assert "an older copy was put back" in checked(heads)
    # A marker that a crash has torn counts as none; fsck names it.
    marker = heads.with_name("cosigned")
    marker.write_bytes(marker.read_bytes().replace(b"0", b"1", 1))
    assert "cosigned is damaged" in checked(heads)
    async with opened(directory) as witness:
        assert (await witness.add_checkpoint(LOG.grow(0, 5))).status == 200
    assert checked(heads) == ""


def checked(heads: Path) -> str:
    with closing(HeadStore.open(heads)) as store:
        return "; ".join(store.check())


@pytest.mark.anyio
async def test_after_a_commit_with_an_unknown_outcome_the_witness_ends(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise lmdb.DiskError("an injected EIO")

    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    settings = WitnessSettings(listen="127.0.0.1:0")
    running = asyncio.create_task(
        serve(directory, settings, stop=asyncio.Event(), on_ready=address.set_result)
    )
    url = await address
    with monkeypatch.context() as patched:
        patched.setattr(witness_store, "_advance", failing)
        patched.setattr(Environment, "_undone", lambda *_: None)
        answer = await asyncio.to_thread(add_checkpoint, url, LOG.grow(0, 5))
    assert answer.status == 503
    with pytest.raises(CommitFailedError, match="an injected EIO"):
        await running
    async with opened(directory) as again:
        cosigned(await again.add_checkpoint(LOG.grow(0, 5)), LOG.note(5))


@pytest.mark.anyio
async def test_a_disk_that_stands_still_is_named_and_refuses_heads_until_it_goes_on(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, going_on = threading.Event(), threading.Event()
    commit = HeadWriter.commit

    def stand_still(writer: HeadWriter, updates: Sequence[Update]) -> Sequence[Outcome]:
        begun.set()
        going_on.wait(WAIT_S)
        return commit(writer, updates)

    async with opened(directory) as witness:
        monkeypatch.setattr(HeadWriter, "commit", stand_still)
        first = asyncio.create_task(witness.add_checkpoint(LOG.grow(0, 5)))
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        monkeypatch.setattr(group_commit, "STALL_S", -1.0)
        assert "does not finish a write" in str(witness.any_failure)
        refused = await witness.add_checkpoint(LOG.grow(5, 9))
        assert (refused.status, refused.retry_after_s) == (503, 5)
        monkeypatch.setattr(group_commit, "STALL_S", WAIT_S)
        going_on.set()
        assert cosigned(await first, LOG.note(5)) == NOW
        assert witness.any_failure is None
        assert cosigned(await witness.add_checkpoint(LOG.grow(5, 9)), LOG.note(9)) == NOW
