"""A witness in this process, with a clock of the test's: what it remembers, and when it refuses."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ledger.runtime.keys import write_keys
from ledger.witness.app import open_witness
from ledger.witness.data_dir import WitnessPaths, add_log, open_heads
from ledger.witness.service import Answer, Witness
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.note import parse_note
from ledger_core.tlog.witness import SIZE_MEDIA
from tests.witness.asking import check_cosignatures
from tests.witness.logs import FORK, Log
from tests.witness.witnesses import SIGNERS, make_witness

NOW = 1_790_000_000
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


def run(
    directory: Path, scenario: Callable[[Witness], Awaitable[None]], clock: Clock | None = None
) -> None:
    async def opened() -> None:
        async with open_witness(directory, now=clock or Clock()) as witness:
            await scenario(witness)

    asyncio.run(opened())


async def nothing(_: Witness) -> None:
    """A scenario for a witness that does not start."""


def cosigned(answer: Answer, note: str) -> int:
    """The one time that the cosignatures state."""
    assert answer.status == 200, answer
    (time_unix_s,) = set(check_cosignatures(answer.body.encode(), note, VKEYS))
    return time_unix_s


def test_a_clock_that_runs_backwards_refuses_until_it_has_caught_up(directory: Path) -> None:
    clock = Clock()

    async def scenario(witness: Witness) -> None:
        assert cosigned(await witness.add_checkpoint(LOG.grow(0, 5)), LOG.note(5)) == NOW
        for now, status in [(NOW - 1, 503), (0, 503), (NOW, 200), (NOW - 3600, 503)]:
            clock.now = now
            for tree_size in (5, 9):
                if status == 200 and tree_size == 9:
                    continue
                answer = await witness.add_checkpoint(LOG.grow(5, tree_size))
                assert answer.status == status, (now, answer)
        # What is wrong with a request is said first.
        assert (await witness.add_checkpoint(LOG.grow(4, 9))).status == 409

    run(directory, scenario, clock)

    async def after_a_restart(witness: Witness) -> None:
        answer = await witness.add_checkpoint(LOG.grow(5, 9))
        assert answer.status == 503
        assert "3600 s behind" in answer.body
        clock.now = NOW + 1
        assert cosigned(await witness.add_checkpoint(LOG.grow(5, 9)), LOG.note(9)) == NOW + 1

    run(directory, after_a_restart, clock)


def test_another_log_is_not_held_up_by_the_clock_of_the_first(tmp_path: Path) -> None:
    clock, other = Clock(), Log("example.com/other")
    make_witness(tmp_path / "w", [LOG, other])

    async def scenario(witness: Witness) -> None:
        cosigned(await witness.add_checkpoint(LOG.grow(0, 5)), LOG.note(5))
        clock.now = NOW - 10
        assert cosigned(await witness.add_checkpoint(other.grow(0, 5)), other.note(5)) == NOW - 10

    run(tmp_path / "w", scenario, clock)


def test_the_same_head_is_cosigned_again_at_a_later_time(directory: Path) -> None:
    clock = Clock()

    async def scenario(witness: Witness) -> None:
        first = await witness.add_checkpoint(LOG.grow(0, 5))
        again = await witness.add_checkpoint(LOG.grow(5, 5))
        # ML-DSA-44 signs another way each time: this is what was kept.
        assert again == first
        clock.now += 1
        later = await witness.add_checkpoint(LOG.grow(5, 5))
        assert cosigned(later, LOG.note(5)) == NOW + 1

    run(directory, scenario, clock)


def test_a_hundred_requests_at_once_become_one_history(directory: Path) -> None:
    async def scenario(witness: Witness) -> None:
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

    run(directory, scenario)


def test_what_was_cosigned_is_known_after_a_restart(directory: Path) -> None:
    async def scenario(witness: Witness) -> None:
        cosigned(await witness.add_checkpoint(LOG.grow(0, 5)), LOG.note(5))

    async def after_a_restart(witness: Witness) -> None:
        assert (await witness.add_checkpoint(LOG.grow(0, 9))).body == "5\n"
        cosigned(await witness.add_checkpoint(LOG.grow(5, 9)), LOG.note(9))

    run(directory, scenario)
    run(directory, after_a_restart)


def test_a_log_that_is_added_while_it_runs_is_known_at_once(directory: Path) -> None:
    other = Log("example.com/other")

    async def scenario(witness: Witness) -> None:
        assert (await witness.add_checkpoint(other.grow(0, 5))).status == 404
        add_log(witness.store, origin=other.origin, vkeys=[other.vkey])
        cosigned(await witness.add_checkpoint(other.grow(0, 5)), other.note(5))

    run(directory, scenario)


def test_a_log_may_change_its_key(directory: Path) -> None:
    async def scenario(witness: Witness) -> None:
        new = LOG.signed(LOG.text(5), LOG.stranger)
        assert (await witness.add_checkpoint(LOG.ask(0, new))).status == 403
        add_log(witness.store, origin=LOG.origin, vkeys=[str(LOG.stranger.verifier)])
        for note in (new, LOG.note(5)):
            size = 5 if witness.checkpoint(LOG.origin_hash) else 0
            assert (await witness.add_checkpoint(LOG.ask(size, note))).status == 200

    run(directory, scenario)


def test_a_fork_is_told_to_the_operator_with_both_heads(directory: Path) -> None:
    forked = Log(LOG.origin, FORK)

    async def scenario(witness: Witness) -> None:
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

    run(directory, scenario)


def test_a_store_of_other_keys_is_refused(directory: Path) -> None:
    other = CosignatureSigner.generate("example.com/w2", algorithm=4, seed=b"o" * 32)
    (directory / "key").unlink()
    write_keys(directory / "key", [other.key])
    with pytest.raises(MalformedError, match="second history"):
        run(directory, nothing)


def test_a_key_that_others_can_read_is_refused(directory: Path) -> None:
    (directory / "key").chmod(0o644)
    with pytest.raises(UnavailableError, match="0644"):
        run(directory, nothing)


def test_a_witness_without_its_memory_does_not_begin_anew(directory: Path) -> None:
    for file in (directory / "heads").iterdir():
        file.unlink()
    with pytest.raises(UnavailableError):
        run(directory, nothing)


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
    with open_heads(WitnessPaths(directory), readonly=False) as store:
        before = store.logs()
        with pytest.raises(ValueError, match=message):
            add_log(store, origin=origin, vkeys=vkeys)
        assert store.logs() == before
