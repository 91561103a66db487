"""Damage to what sinks and alarms keep is named by `ledger fsck`, and is read as no number."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.alarms.worker import FiredRecord
from ledger.follow.followers import FOLLOWERS, Followers
from ledger.follow.position import FollowerPaths, FollowerState, Position
from ledger.runtime.records import write_record
from ledger.sinks.dead_letters import DeadLetters
from ledger_client.cli.app import run
from ledger_core.tlog.errors import MalformedError
from tests.sinks.sinking import Folder

DEAD = 2
FILES = (
    *("sinks/siem/position.json", "sinks/siem/state.json", "sinks/siem/dead.jsonl"),
    *("alarms/position.json", "alarms/state.json", "alarms/fired.json"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with ten entries, a sink and alarms that are at its end."""
    folder = Folder(tmp_path_factory.mktemp("followers") / "ledger")
    folder.append(count=10)
    hashes = folder.leaf_hashes()
    at_end = Position(next_index=10, last_leaf_hash=hashes[9])
    sink = folder.add("siem", type="file", path=str(folder.directory / "sent.jsonl"))
    letters = DeadLetters(sink)
    for index in range(DEAD):
        letters.add(index, hashes[index], "HTTP 400")
    write_record(sink.position, at_end)
    write_record(sink.state, FollowerState(dead=DEAD))
    (folder.directory / "alarms.toml").write_text('[many]\nquery = "action:login.failed"\n')
    alarms = FollowerPaths(folder.directory, "alarms", "")
    alarms.make()
    write_record(alarms.position, at_end)
    write_record(alarms.state, FollowerState())
    write_record(alarms.root / "fired.json", FiredRecord(fired={"many": 1_795_841_016_000_000}))
    return folder.directory


@pytest.fixture
def ledger(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "ledger"))


def problems(ledger: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    code = run(["fsck", str(ledger), "--json"])
    found = [each["part"] for each in json.loads(capsys.readouterr().out)["problems"]]
    assert code == int(bool(found))
    return found


def test_whole_followers_pass(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problems(ledger, capsys) == []


def _flip_some(data: bytes) -> list[bytes]:
    return [
        data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        for at in range(0, len(data), 7)
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_of_a_follower_is_named(
    name: str, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ledger / name
    whole = file.read_bytes()
    unnamed = []
    for changed in _flip_some(whole[:-1]):
        file.write_bytes(changed + whole[-1:])
        if problems(ledger, capsys) != [name]:
            unnamed.append(changed)
    assert unnamed == []


def _another_entry(ledger: Path) -> None:
    write_record(
        ledger / "alarms" / "position.json", Position(next_index=4, last_leaf_hash="00" * 32)
    )


def _beyond_the_end(ledger: Path) -> None:
    write_record(ledger / "alarms" / "position.json", Position(next_index=11))


def _cut_letters(ledger: Path) -> None:
    path = ledger / "sinks" / "siem" / "dead.jsonl"
    path.write_bytes(path.read_bytes()[:-5])


def _no_toml(ledger: Path) -> None:
    (ledger / "sinks.toml").write_text("[siem\n")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (_another_entry, "alarms/position.json"),
        (_beyond_the_end, "alarms/position.json"),
        (_cut_letters, "sinks/siem/dead.jsonl"),
        (_no_toml, "sinks.toml"),
    ],
)
def test_what_is_not_of_this_log_or_is_gone_is_named(
    change: Callable[[Path], None], part: str, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(ledger)
    assert problems(ledger, capsys) == [part]


def test_a_follower_whose_files_can_not_be_read_is_a_fault_of_the_service(ledger: Path) -> None:
    followers = Followers(ledger, FOLLOWERS)
    followers._names["sinks"] = ["siem"]
    assert [each.name for each in followers.reports()] == ["sinks/siem"]
    assert followers.faults() == []
    (ledger / "sinks" / "siem" / "position.json").write_bytes(b"")
    assert followers.reports() == []
    (fault,) = followers.faults()
    assert "position.json" in fault


@pytest.mark.parametrize("damage", [b"", bytes(4096)], ids=["cut", "zeroed"])
def test_dead_letters_that_are_gone_are_not_read_as_none(
    damage: bytes, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = FollowerPaths(ledger, "sinks", "siem")
    paths.dead.write_bytes(damage)
    with pytest.raises(MalformedError, match=f"0 dead letters, and {DEAD} were kept"):
        DeadLetters(paths)
    assert run(["sink", "dead-letters", str(ledger), "siem"]) == 2
    assert "it is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["sinks.toml", "alarms.toml"])
def test_a_file_that_is_not_utf8_is_an_error_that_names_it(
    file: str, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ledger / file
    path.write_bytes(path.read_bytes()[:3] + b"\xf4" + path.read_bytes()[4:])
    assert problems(ledger, capsys) == [file]
    code = run([file.removesuffix("s.toml"), "list", str(ledger)])
    assert (code, "is not text in UTF-8: byte 3 is 0xf4" in capsys.readouterr().err) == (2, True)
