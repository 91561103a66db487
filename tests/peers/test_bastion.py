"""Our witness behind a bastion that other people wrote: litebastion of torchwood."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.demo.child_service import Service
from ledger.witness.bastion import key_hash, open_key
from tests.client.syslog.certificates import Authority
from tests.peers.witnesses import Litebastion
from tests.served import FLAGS
from tests.service.serving import make_ledger
from tests.waiting import until
from tests.witness.asking import add_checkpoint, ask, check_cosigned, check_row
from tests.witness.logs import Log
from tests.witness.table import ROWS, Row
from tests.witness.witnesses import SIGNERS, make_witness

pytestmark = pytest.mark.go

LITEBASTION_BODY_MAX = 10 * 1024
SMALL_ROWS = [row for row in ROWS if len(row.body(row.log)) <= LITEBASTION_BODY_MAX]
LEDGER = Path(sys.executable).with_name("ledger")
VKEYS = tuple(str(signer.verifier) for signer in SIGNERS)
LOG = Log("bastion.example.com/log")


class Behind:
    """A witness that serves nobody but the bastion, and its log lines."""

    def __init__(self, folder: Path, logs: list[Log]) -> None:
        self.folder = folder / "w"
        self.lines = folder / "witness.log"
        self.authority = Authority(folder)
        certificate, key, _ = self.authority.issue("bastion")
        self.bastion = Litebastion(folder, certificate=certificate, key=key)
        make_witness(self.folder, logs)
        open_key(self.folder)
        self.key_hash = str(key_hash(self.folder))
        self.url = f"{self.bastion.url}/{self.key_hash}"

    def service(self) -> Service:
        """`ledger witness serve --bastion`."""
        return Service(
            self.folder,
            listen="127.0.0.1:0",
            command=("witness", "serve"),
            flags=(
                *("--bastion", self.bastion.address, "--log-file", str(self.lines)),
                *("--bastion-ca-file", str(self.authority.certificate), "--log-format", "json"),
            ),
        )

    def events(self) -> list[str]:
        """The log lines about the bastion, in order."""
        text = self.lines.read_text() if self.lines.exists() else ""
        return [
            event
            for event in (json.loads(line)["event"] for line in text.splitlines())
            if event.startswith("bastion_") and event != "bastion_key"
        ]

    def is_reached(self) -> bool:
        return ask(self.url, "GET", "/healthz").status == 200


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    logs = {row.log.origin: row.log for row in ROWS}
    behind = Behind(tmp_path_factory.mktemp("bastion"), [*logs.values(), LOG])
    behind.bastion.allow(behind.key_hash)
    behind.bastion.start()
    try:
        with behind.service():
            until(behind.is_reached, "the witness is reached by the bastion")
            yield behind
    finally:
        behind.bastion.stop()


@pytest.mark.parametrize("row", SMALL_ROWS, ids=[row.name for row in SMALL_ROWS])
def test_the_answer_by_the_bastion_is_that_of_the_table(behind: Behind, row: Row) -> None:
    check_row(row, behind.url, VKEYS, witness="ours")


def test_people_and_monitors_are_answered_by_the_bastion_too(behind: Behind) -> None:
    check_cosigned(add_checkpoint(behind.url, LOG.grow(0, 5)), LOG.note(5), VKEYS)
    assert ask(behind.url, "GET", f"/{LOG.origin_hash.hex()}/checkpoint").status == 200
    page = ask(behind.url, "GET", "/")
    assert (page.status, page.content_type) == (200, "text/html; charset=utf-8")
    assert LOG.origin.encode() in page.body
    assert ask(behind.url, "GET", "/nothing").status == 404
    assert ask(behind.url, "GET", "/add-checkpoint").status == 405
    assert ask(behind.url, "HEAD", "/healthz").body == b""


def test_a_ledger_is_cosigned_by_a_witness_behind_the_bastion(
    behind: Behind, tmp_path: Path
) -> None:
    directory = tmp_path / "ledger"
    make_ledger(directory)
    policy = (directory / "policy").read_text()
    vkey = re.findall(r"^log (\S+)", policy, re.MULTILINE)[0]
    subprocess.run([LEDGER, "witness", "add-log", behind.folder, "--vkey", vkey], check=True)
    log, _, _ = policy.partition("quorum")
    (directory / "policy").write_text(f"{log}witness w {VKEYS[0]} {behind.url}\nquorum w\n")
    with Service(directory, listen="127.0.0.1:0", flags=FLAGS) as service:
        until(lambda: ask(service.url, "GET", "/checkpoint").status == 200, "a published head")
        head = ask(service.url, "GET", "/checkpoint").body.decode()
    assert f"\u2014 {SIGNERS[0].verifier.name} " in head


def test_a_bastion_that_is_away_or_does_not_know_the_key_is_asked_again(tmp_path: Path) -> None:
    behind = Behind(tmp_path, [LOG])
    try:
        with behind.service():
            until(lambda: behind.events() == ["bastion_lost"], "it says that none is there")
            behind.bastion.start()
            # It answers, and refuses the key: another state.
            until(lambda: len(behind.events()) == 2, "it says that the key is refused")
            behind.bastion.allow(behind.key_hash)
            until(behind.is_reached, "it is reached")
            check_cosigned(add_checkpoint(behind.url, LOG.grow(0, 3)), LOG.note(3), VKEYS)
            behind.bastion.stop()
            until(lambda: behind.events()[3:] != [], "it says that the bastion is gone")
            behind.bastion.start()
            until(behind.is_reached, "it is reached again")
            check_cosigned(add_checkpoint(behind.url, LOG.grow(3, 7)), LOG.note(7), VKEYS)
    finally:
        behind.bastion.stop()
    connected = [event for event in behind.events() if event == "bastion_connected"]
    assert len(connected) == 2
    assert "does the bastion know this key" in behind.lines.read_text()
    # A line for each state, not for each attempt.
    assert len(behind.events()) <= 7
