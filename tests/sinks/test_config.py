"""`sinks.toml`: what is refused, and how commands edit it beside a person."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from ledger.cli.sink import command
from ledger.sinks.config import SinkConfig, add_sink, read_sinks, remove_sink, sinks_path
from ledger_core.tlog.errors import MalformedError, UnavailableError
from tests.sinks.sinking import Folder


def config(**values: Any) -> SinkConfig:
    return msgspec.convert(values, SinkConfig)


HTTP = config(type="http", url="https://siem.example.com/in")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"type": "file", "path": "out.jsonl"}, "absolute path"),
        ({"type": "http"}, "want https://host"),
        ({"type": "http", "url": "http://siem.example.com"}, "insecure = true"),
        ({"type": "http", "url": "https://jo:pw@siem.example.com"}, "token_file"),
        ({"type": "http", "url": "https://siem.example.com:99999"}, "url: "),
        ({"type": "http", "url": "https://[::1"}, "url: "),
        ({"type": "http", "url": "ftp://siem.example.com"}, "want https://host"),
        ({"type": "elastic", "url": "https://siem.example.com"}, "index"),
        ({"type": "syslog", "url": "https://siem.example.com"}, "want tls://host"),
        ({"type": "smtp", "url": "smtps://mail.example.com"}, "to, sender"),
        ({"type": "http", "url": "https://a", "client_cert": "/x"}, "both or neither"),
        ({"type": "http", "url": "https://a", "query": "no_field:x"}, "query: "),
        ({"type": "http", "url": "https://a", "token_file": "/x", "token_env": "X"}, "one of"),
    ],
)
def test_a_bad_sink_is_refused_with_its_key(
    tmp_path: Path, values: dict[str, Any], fault: str
) -> None:
    with pytest.raises(MalformedError, match=fault):
        add_sink(tmp_path, "siem", config(**values))
    assert not sinks_path(tmp_path).exists()


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 64, "ä"])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedError):
        add_sink(tmp_path, name, HTTP)


def test_what_a_person_wrote_stays(tmp_path: Path) -> None:
    mine = '# my notes\n[mine]\ntype = "http" # why\nurl = "https://mine.example.com"\n'
    sinks_path(tmp_path).write_text(mine)
    add_sink(tmp_path, "siem", HTTP)
    add_sink(tmp_path, "other", config(type="file", path='/a "b"/out.jsonl', gzip=True))
    assert list(read_sinks(tmp_path)) == ["mine", "siem", "other"]
    assert read_sinks(tmp_path)["other"].path == '/a "b"/out.jsonl'
    with pytest.raises(MalformedError, match="already"):
        add_sink(tmp_path, "mine", HTTP)
    remove_sink(tmp_path, "siem")
    assert list(read_sinks(tmp_path)) == ["mine", "other"]
    remove_sink(tmp_path, "other")
    assert sinks_path(tmp_path).read_text().strip() == mine.strip()
    with pytest.raises(MalformedError, match="no sink"):
        remove_sink(tmp_path, "other")


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    sinks_path(tmp_path).write_text('[siem]\ntype = "http"\nurl = "https://a"\ntoken = "x"\n')
    with pytest.raises(MalformedError, match=r"sink 'siem': .*token"):
        read_sinks(tmp_path)


def test_a_secret_is_one_line_of_a_file_or_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    named = config(type="http", url="https://a", token_file=str(file))
    with pytest.raises(UnavailableError, match="can't be read"):
        named.secret()
    file.write_text("one\ntwo\n")
    with pytest.raises(UnavailableError, match="one line") as caught:
        named.secret()
    assert "two" not in str(caught.value)
    file.write_text("one\n")
    assert named.secret() == "one"
    variable = config(type="http", url="https://a", token_env="SIEM_TOKEN")
    with pytest.raises(UnavailableError, match="SIEM_TOKEN"):
        variable.secret()
    monkeypatch.setenv("SIEM_TOKEN", "two")
    assert variable.secret() == "two"


def test_a_sink_that_is_refused_leaves_no_folder(folder: Folder) -> None:
    before = set(folder.directory.iterdir())
    url = ("--type", "http", "--url", "http://siem.example")
    done = CliRunner().invoke(command, ["add", str(folder.directory), "copy", *url])
    assert isinstance(done.exception, MalformedError)
    assert set(folder.directory.iterdir()) == before
