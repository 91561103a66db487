"""A witness takes its logs from a list: additively, from a file or an address, within quotas."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner
from structlog.testing import capture_logs

from ledger.cli.witness import command
from ledger.runtime.text_answer import Answer
from ledger.witness.app import make_app, open_witness
from ledger.witness.data_dir import WitnessPaths
from ledger.witness.known_log import decode_log, encode_log
from ledger.witness.log_lists import add_logs, follow_list
from ledger.witness.service import Witness
from ledger.witness.settings import WitnessSettings
from ledger.witness.store import HeadStore, HeadWriter, Update
from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.log_list import LIST_BYTES_MAX, LISTED_LOGS_MAX, LogList, parse_log_list
from ledger_core.tlog.note import Signer
from ledger_core.tlog.witness import cosign
from tests.waiting import until_async
from tests.witness.logs import Log
from tests.witness.witnesses import SIGNERS, make_witness

WAIT_S = 60.0
KNOWN = Log("example.com/known")
NEW = Log("example.com/new")
OTHER_KEY = str(Signer.generate(KNOWN.origin, seed=b"x" * 32).verifier)
HOUR_S = 3_600.0


class Steady:
    """Seconds as the test counts them."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_witness(tmp_path / "w", [KNOWN], signers=SIGNERS[:1])
    return tmp_path / "w"


def opened(directory: Path) -> closing[HeadStore]:
    return closing(HeadStore.open(WitnessPaths(directory).heads, readonly=False))


def listing(*logs: Log, more: str = "") -> str:
    return "logs/v0\n" + "".join(f"vkey {log.vkey}\n{more}\n" for log in logs)


@asynccontextmanager
async def published(handler: Callable[[], web.Response]) -> AsyncIterator[str]:
    """The address of a list that a server answers with."""

    async def answer(_request: web.BaseRequest) -> web.Response:
        return handler()

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://user:sesame@127.0.0.1:{runner.addresses[0][1]}/log-list.1"
    finally:
        await runner.cleanup()


def test_a_list_adds_and_never_removes_nor_replaces(directory: Path) -> None:
    with opened(directory) as store:
        listed = parse_log_list(listing(NEW, more="qpd 24")).logs
        assert store.add_listed(listed).new == (NEW.origin,)
        assert store.add_listed(listed) == ((), (), ())
        # A list without the logs that are known, and then one with another key of a known one.
        assert store.add_listed(()) == ((), (), ())
        taken = store.add_listed(parse_log_list(f"logs/v0\nvkey {OTHER_KEY}\n").logs)
        assert taken.new == ()
        (said,) = taken.left_out
        assert "known with another key" in said
        logs = {log.origin: log for log, _ in store.logs()}
        assert logs[KNOWN.origin].vkeys == (KNOWN.vkey,)
        assert logs[NEW.origin].requests_per_day == 24
        # A limit is taken over, and ends with the list that has none.
        assert store.add_listed(parse_log_list(listing(NEW)).logs).limits_changed == (NEW.origin,)
        log = store.log(NEW.origin)
        assert log is not None
        assert log.requests_per_day is None
        assert store.check() == []


def test_a_log_that_was_added_by_hand_is_no_lists(directory: Path) -> None:
    with opened(directory) as store:
        before = store.log(KNOWN.origin)
        for more in ("qpd 0.000001", "", "qpd 1000"):
            listed = parse_log_list(listing(KNOWN, more=more)).logs
            assert store.add_listed(listed) == ((), (), ())
        assert store.log(KNOWN.origin) == before


@pytest.mark.parametrize("has_head", [False, True])
def test_an_owner_who_adds_a_listed_log_replaces_what_the_list_said(
    directory: Path, *, has_head: bool
) -> None:
    stranger = f"logs/v0\nvkey {NEW.stranger.verifier}\nqpd 1\n"
    both = [NEW.vkey, str(NEW.stranger.verifier)]
    with opened(directory) as store:
        store.add_listed(parse_log_list(stranger).logs)
    if has_head:
        made = cosign(
            parse_signed_checkpoint(NEW.signed(NEW.text(3), NEW.stranger)),
            SIGNERS[:1],
            time_unix_s=1_790_000_000,
        )
        writer = HeadWriter.open(WitnessPaths(directory).heads)
        writer.commit([Update(NEW.origin, lambda _: made)])
        writer.close()
    with opened(directory) as store:
        if has_head:
            # The witness never cosigns another tree of this origin, and says so.
            with pytest.raises(ValueError, match=r"size 3 .* under the key that a list gave"):
                store.add_log(NEW.origin, [NEW.vkey])
            log = store.log(NEW.origin)
            assert log is not None
            assert log.vkeys == (both[1],)
            assert store.add_log(NEW.origin, both).vkeys == tuple(both)
        else:
            assert store.add_log(NEW.origin, [NEW.vkey]).vkeys == (NEW.vkey,)
        log = store.log(NEW.origin)
        assert log is not None
        assert (log.requests_per_day, log.is_listed) == (None, False)
        # From now on as if it had been added by hand at first: further keys come beside these.
        store.add_listed(parse_log_list(stranger).logs)
        assert store.log(NEW.origin) == log
        assert store.add_log(NEW.origin, [OTHER_KEY]).vkeys == (*log.vkeys, OTHER_KEY)
        assert store.check() == []


def test_rows_of_an_earlier_version_are_listed_if_only_a_list_can_have_made_them() -> None:
    keys = "a+1+A\n", "b+2+B\n"
    for row, is_listed in (
        ("o\n" + keys[0], False),
        ("o\n" + keys[0] + "qpd 24.0\ncosigned\n", True),
        ("o\n" + "".join(keys) + "qpd 24.0\n", False),
    ):
        log = decode_log(row.encode())
        assert (log.origin, log.is_listed) == ("o", is_listed)
        assert decode_log(encode_log(log)) == log


def test_the_command_says_which_key_of_a_list_goes(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(f"logs/v0\nvkey {NEW.stranger.verifier}\nqpd 24\n")
    CliRunner().invoke(command, ["add-logs", str(directory), str(path)], standalone_mode=False)
    done = CliRunner().invoke(command, ["add-log", str(directory), "--vkey", NEW.vkey])
    assert done.exit_code == 0, done.output
    assert NEW.vkey in done.stdout
    assert f"not accepted any more, since only a list gave it: {NEW.stranger.verifier}" in (
        done.stderr
    )
    assert "the limit of a list ends: 24 requests a day" in done.stderr
    left = CliRunner().invoke(command, ["add-logs", str(directory), str(path)])
    assert f"{NEW.origin} is known with another key, which stays" in left.stderr


def test_lists_add_no_more_than_so_many_logs(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.witness.store.LISTED_KNOWN_MAX", 3)
    with opened(directory) as store:
        for turn in range(3):
            logs = [Log(f"example.com/{turn}-{each}") for each in range(2)]
            added = store.add_listed(parse_log_list(listing(*logs)).logs)
            assert len(added.new) == (2, 0, 0)[turn]
            assert len(added.left_out) == 2 - len(added.new)
        assert store.count_logs() == 3
        # A limit of a known one is taken over all the same.
        known = parse_log_list(listing(Log("example.com/0-0"), more="qpd 24")).logs
        assert store.add_listed(known).limits_changed == ("example.com/0-0",)


def test_a_list_that_changes_nothing_holds_up_no_head(directory: Path) -> None:
    listed = parse_log_list(listing(KNOWN, NEW)).logs
    with opened(directory) as store:
        assert store.add_listed(listed).new == (NEW.origin,)
        with ThreadPoolExecutor(1) as pool, store.environment.write():
            # Heads are being committed.
            assert pool.submit(store.add_listed, listed).result(WAIT_S) == ((), (), ())


@pytest.mark.anyio
async def test_a_hostile_list_makes_short_lines_beside_the_loop(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noted(data: bytes) -> LogList:
        threads.append(threading.current_thread())
        return parse_log_list(data)

    monkeypatch.setattr("ledger.witness.log_lists.parse_log_list", noted)
    file = tmp_path / "list"
    with opened(directory) as store, capture_logs() as lines:
        for text, line in (
            ("logs/v0\n" + "vkey a\n" * LISTED_LOGS_MAX, "listed_logs_left_out"),
            ("logs/v0\n" + "vkey a\n" * (LISTED_LOGS_MAX + 1), "log_list_failed"),
        ):
            file.write_text(text)
            following = asyncio.create_task(follow_list(store, str(file), interval_s=WAIT_S))
            await until_async(lambda: line in [each["event"] for each in lines])  # noqa: B023
            following.cancel()
            await asyncio.wait({following})
    assert threading.main_thread() not in threads
    assert lines[0]["count"] == LISTED_LOGS_MAX
    assert len(str(lines)) < 10_000


@pytest.mark.anyio
async def test_a_log_is_held_to_its_requests_a_day(directory: Path) -> None:
    steady = Steady()
    with opened(directory) as store:
        store.add_listed(parse_log_list(listing(NEW, more="qpd 48")).logs)
    witness = Witness(
        HeadWriter.open(WitnessPaths(directory).heads),
        SIGNERS[:1],
        now=lambda: 1_790_000_000 + int(steady.now),
        steady_s=steady,
    )

    async def ask(old_size: int, tree_size: int) -> Answer:
        return await witness.add_checkpoint(NEW.grow(old_size, tree_size))

    # Strangers, who can't sign for the log, use none of it up.
    forged = NEW.signed(NEW.text(3), NEW.stranger).encode()
    for _ in range(5):
        body = NEW.grow(0, 3).replace(NEW.note(3).encode(), forged)
        assert (await witness.add_checkpoint(body)).status == 403
    assert (await ask(0, 1)).status == 200
    # Nor can they by what the log has signed and published before.
    again = [(await ask(old, 1)).status for old in (0, 1, 1, 1, 0, 1)]
    assert again == [409, 200, 200, 429, 409, 429]
    # Nor by a larger head that the log has published before it asked: it would not be cosigned.
    without_proof = NEW.ask(1, NEW.note(40), proof=[])
    for _ in range(5):
        assert (await ask(3, 40)).status == 409
        assert (await witness.add_checkpoint(without_proof)).status == 422
    assert (await ask(1, 2)).status == 200
    refused = await ask(2, 3)
    assert (refused.status, refused.retry_after_s) == (429, HOUR_S / 2)
    assert "48 times a day" in refused.body
    steady.now += HOUR_S / 2
    assert (await ask(2, 3)).status == 200
    assert (await ask(3, 4)).status == 429
    # Another log, and the same one under a new limit, at once.
    assert (await witness.add_checkpoint(KNOWN.grow(0, 1))).status == 200
    witness.store.add_listed(parse_log_list(listing(NEW)).logs)
    assert (await ask(3, 4)).status == 200
    await witness.stop()


@pytest.mark.anyio
async def test_a_list_is_followed_at_its_address(directory: Path) -> None:
    texts = ["no list", listing(NEW), listing(NEW)]
    asked = []

    def answer() -> web.Response:
        asked.append(1)
        return web.Response(text=texts[min(len(asked), len(texts)) - 1])

    with opened(directory) as store, capture_logs() as lines:
        async with published(answer) as address:
            following = asyncio.create_task(follow_list(store, address, interval_s=0.001))
            await until_async(lambda: len(asked) >= 6)
            following.cancel()
            await asyncio.wait({following})
        assert store.log(NEW.origin) is not None
        failed, read = (
            [line for line in lines if line["event"] == name]
            for name in ("log_list_failed", "log_list_read")
        )
        assert len(failed) == len(read) == 1
        assert read[0]["new"] == (NEW.origin,)
        assert "sesame" not in str(lines)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (web.Response(status=404), UnavailableError, "answered 404"),
        (
            web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
            UnavailableError,
            "answered 302",
        ),
        (web.Response(body=b"#" * (LIST_BYTES_MAX + 1)), MalformedError, "at most"),
        (web.Response(text="<html>"), MalformedError, "begins with logs/v0"),
    ],
)
async def test_a_list_that_can_not_be_read_changes_nothing(
    directory: Path, answer: web.Response, error: type[Exception], reason: str
) -> None:
    with opened(directory) as store:
        async with published(lambda: answer) as address:
            with pytest.raises(error, match=reason) as raised:
                await add_logs(store, address)
        assert "sesame" not in str(raised.value)
        assert store.count_logs() == 1


@pytest.mark.anyio
async def test_a_list_of_nobody_is_said(directory: Path, tmp_path: Path) -> None:
    with opened(directory) as store:
        for source in (str(tmp_path / "none"), "http://127.0.0.1:1/list"):
            with pytest.raises(UnavailableError, match="the log list"):
                await add_logs(store, source)


@pytest.mark.anyio
async def test_a_refusal_says_when_to_ask_again_over_http(directory: Path) -> None:
    class Refusing(Witness):
        async def add_checkpoint(self, body: bytes) -> Answer:
            return Answer(429, "later\n", retry_after_s=7)

    async with open_witness(directory, now=lambda: 0) as witness:
        witness.__class__ = Refusing
        runner = web.AppRunner(make_app(witness, WitnessSettings()))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 0\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await runner.cleanup()
    assert head.startswith(b"HTTP/1.1 429")
    assert b"Retry-After: 7\r\n" in head


def test_the_command_adds_the_logs_of_a_file(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(listing(KNOWN, NEW, more="qpd 24") + "vkey junk\n")
    add = ["add-logs", str(directory), str(path)]
    done = CliRunner().invoke(command, add, standalone_mode=False)
    assert done.return_value == 3, done.output
    assert done.stdout == f"{NEW.origin}\n"
    assert "left out: line" in done.stderr
    assert "1 new log, 0 new limits" in done.stderr
    shown = CliRunner().invoke(command, ["status", str(directory), "--json"])
    logs = {log["origin"]: log for log in json.loads(shown.stdout)["logs"]}
    assert (logs[NEW.origin]["added_by"], logs[NEW.origin]["requests_per_day"]) == ("list", 24)
    assert logs[KNOWN.origin]["added_by"] == "hand"
    assert "requests_per_day" not in logs[KNOWN.origin]
    path.write_text(listing(KNOWN, NEW, more="qpd 24"))
    assert CliRunner().invoke(command, add, standalone_mode=False).return_value == 0
