"""Files of TOML with hostile values, names of followers, and other texts that a pattern bounds."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ledger.alarms.config import AlarmConfig
from ledger.follow.followers import FOLLOWERS, Followers
from ledger.follow.position import is_name
from ledger.follow.tables import check_name, parse_tables
from ledger.retention.policy import parse_retention
from ledger.service.settings import Settings, read_settings
from ledger.sinks.config import SinkConfig
from ledger_client.collect.importers.mapping import parse_mapping
from ledger_core.event.model import whole_text
from ledger_core.event.secrets import parse_rules
from ledger_core.query.saved import AskSave
from ledger_core.tlog.errors import MalformedError
from ledger_core.toml import CHARS_MAX, parse_toml


def test_a_name_with_a_newline_at_its_end_is_no_name_of_a_follower() -> None:
    check_name("siem")
    assert is_name("siem")
    assert not is_name("siem\n")
    with pytest.raises(MalformedError, match="a name has up to 63"):
        check_name("siem\n")


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        (AskSave, {"name": "night", "query": "action:login"}),
        (Settings, {"secrets": "mask"}),
    ],
)
def test_a_pattern_refuses_a_newline_at_the_end(kind: type, good: dict[str, str]) -> None:
    msgspec.convert(good, kind)
    first = next(iter(good))
    with pytest.raises(msgspec.ValidationError, match=first):
        msgspec.convert(good | {first: good[first] + "\n"}, kind)


def test_the_schema_of_a_whole_text_has_no_python_syntax() -> None:
    assert whole_text("a|b").extra_json_schema == {"pattern": "^(?:a|b)$"}


SINK = '[a]\ntype = "smtp"\nurl = "smtps://h"\nto = ["a@example.com"]\nsender = "b@example.com"\n'


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sender", '"b@example.com\\nBcc: c@example.com"'),
        ("to", '["a@example.com", "b@example.com\\r\\nDATA"]'),
        ("username", '"a\\r\\nX: y"'),
        ("token_env", '"A\\u0000"'),
        ("index", '"logs\\u2028"'),
        ("path", '"/var/log/a\\u001b[2J"'),
    ],
)
def test_a_line_end_or_a_control_character_in_a_table_is_refused(key: str, value: str) -> None:
    parse_tables(SINK, "sinks.toml", SinkConfig, what="sink", most=1)
    lines = [line for line in SINK.splitlines() if not line.startswith(key)]
    text = "\n".join([*lines, f"{key} = {value}"])
    with pytest.raises(MalformedError, match=rf"^sinks.toml: sink 'a': {key}: it has a line end"):
        parse_tables(text, "sinks.toml", SinkConfig, what="sink", most=1)


def test_a_query_may_have_several_lines() -> None:
    text = '[a]\nquery = """\naction:login\n  outcome:failure"""\n'
    parse_tables(text, "alarms.toml", AlarmConfig, what="alarm", most=1)


@pytest.mark.parametrize("key", ["silence_s", "repeat_s", "window_s"])
def test_no_time_of_an_alarm_is_infinite(key: str) -> None:
    text = f'[a]\nquery = "action:login"\n{key} = inf\n'
    with pytest.raises(MalformedError, match=f"{key}: expected float <="):
        parse_tables(text, "alarms.toml", AlarmConfig, what="alarm", most=1)


DEEP = 10_000
HOSTILE = {
    "lists": ("a = " + "[" * DEEP, "nests too deep"),
    "tables": ("a = " + "{a=" * DEEP, "nests too deep"),
    "parts": (".".join(["a"] * DEEP) + " = 1", "64 parts"),
    "header": ("[" + '."a"' * DEEP + "]", "64 parts"),
    "digits": ("a = " + "9" * 5000, "thousands of digits"),
    "hexadecimal": ("a = 0x" + "f" * 5000, "64 digits"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_toml_that_python_does_not_bound_is_refused_by_each_reader(
    kind: str, tmp_path: Path
) -> None:
    text, said = HOSTILE[kind]
    readers: list[Callable[[], object]] = [
        lambda: parse_tables(text, "sinks.toml", SinkConfig, what="sink", most=1),
        lambda: parse_retention(text.encode(), "retention.toml"),
        lambda: parse_rules(text),
        lambda: parse_mapping(text),
        lambda: read_settings(toml=text),
    ]
    for read in readers:
        with pytest.raises(MalformedError, match=said):
            read()
    (tmp_path / "sinks.toml").write_text(text)
    followers = Followers(tmp_path, [each for each in FOLLOWERS if each.name == "sinks"])
    followers._adjust()
    assert said in str(followers.faults())


def test_a_very_long_text_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 4194304 characters"):
        parse_toml("#" * (CHARS_MAX + 1))


def test_long_words_are_no_keys_of_many_parts() -> None:
    text = f'a = "{"x" * 1_000_000}"\nb = "{"10.0.0.1, " * 1000}"\nc = "{". " * 1000}"\n'
    assert set(parse_toml(text)) == {"a", "b", "c"}
