"""Commands that read a bucket say which server they ask, and print a bounded list of faults."""

import pytest

from ledger.cli.place_options import make_place
from ledger.follow.followers import AWS_VARIABLES
from ledger.object_storage.config import ArchiveConfig
from ledger.object_storage.place import ENDPOINT_VARIABLES
from ledger_client.runtime.fault_list import LINES_MAX, FaultList
from ledger_core.tlog.errors import MalformedError

GIVEN = {"endpoint": "", "region": "", "ca_file": "", "insecure": False, "anonymous": True}
URL = "s3://bucket/log"


def test_the_server_is_named_that_a_missing_endpoint_stands_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    make_place(URL, GIVEN)
    assert f"{URL} is looked for at AWS; --endpoint" in capsys.readouterr().err
    for name in ENDPOINT_VARIABLES:
        with monkeypatch.context() as environment:
            environment.setenv(name, "https://s3.example.com:8333")
            assert make_place(URL, GIVEN).endpoint == "https://s3.example.com:8333"
            assert ArchiveConfig(url=URL).place().endpoint == "https://s3.example.com:8333"
        said = capsys.readouterr().err
        assert f"{URL} is looked for at https://s3.example.com:8333 (of {name})" in said
        with monkeypatch.context() as environment:
            environment.setenv(name, "https://user:secret@s3.example.com:8333")
            with pytest.raises(MalformedError, match="credentials belong in the environment"):
                make_place(URL, GIVEN)
        assert "secret" not in capsys.readouterr().err
    make_place(URL, {**GIVEN, "endpoint": "https://s3.example.com"})
    make_place("https://s3.example.com/bucket/log", GIVEN)
    assert capsys.readouterr().err == ""


def test_the_processes_of_a_service_ask_the_server_that_its_environment_names() -> None:
    assert set(ENDPOINT_VARIABLES) <= set(AWS_VARIABLES)


def test_a_long_list_of_faults_ends_with_their_number() -> None:
    faults = FaultList(1000)
    for number in range(LINES_MAX):
        faults.add(f"tile {number} is missing")
    assert list(faults.lines()) == faults.first
    for number in range(5_000):
        faults.add(f"bundle {number} is missing")
    *named, last = faults.lines()
    assert named == faults.first[:LINES_MAX]
    assert last == f"and {5_000:,} more; --json names the first 1,000"
