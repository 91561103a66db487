"""Settings: one table, three places to set them, and refusals that name the place."""

import tomllib
from typing import Any

import pytest

from ledger.service.settings import SETTINGS, Settings, read_settings, settings_template
from ledger_client.runtime.server import parse_listen
from ledger_core.tlog.errors import MalformedError


def test_every_setting_has_a_type_a_default_and_a_sentence() -> None:
    assert len(SETTINGS) == len(Settings.__struct_fields__)
    for setting in SETTINGS:
        assert isinstance(setting.default, setting.type)
        assert setting.help.endswith(".")
        assert setting.flag == f"--{setting.name.replace('_', '-')}"
        assert setting.variable == f"LEDGER_{setting.name.upper()}"


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file() -> None:
    toml = 'listen = "127.0.0.1:1"\npublish_interval_s = 2\npublic_entries = true\n'
    environ = {
        "LEDGER_LISTEN": "127.0.0.1:2",
        "LEDGER_PUBLISH_INTERVAL_S": "0.5",
        "LEDGER_URL": "x",
    }
    flags = {"listen": "127.0.0.1:3", "publish_interval_s": None}
    settings = read_settings(toml=toml, environ=environ, flags=flags)
    assert settings.listen == "127.0.0.1:3"
    assert settings.publish_interval_s == 0.5
    assert settings.public_entries is True
    assert settings.map_bytes == Settings().map_bytes
    assert read_settings() == Settings()


def test_the_template_sets_nothing_and_can_set_everything() -> None:
    template = settings_template()
    assert tomllib.loads(template) == {}
    lines = [
        line.removeprefix("# ")
        for line in template.splitlines()
        if line.removeprefix("# ").partition(" = ")[0] in Settings.__struct_fields__
    ]
    assert read_settings(toml="\n".join(lines)) == Settings()
    assert len(lines) == len(SETTINGS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"toml": "listen = "}, "ledger.toml: "),
        ({"toml": "colour = 1"}, "ledger.toml: .*colour"),
        ({"toml": 'map_bytes = "1"'}, "ledger.toml: .*map_bytes"),
        ({"toml": "publish_interval_s = 0"}, "ledger.toml: .*publish_interval_s"),
        ({"environ": {"LEDGER_MAP_BYTES": "much"}}, "LEDGER_MAP_BYTES: "),
        ({"environ": {"LEDGER_PUBLIC_ENTRIES": "perhaps"}}, "LEDGER_PUBLIC_ENTRIES: "),
        ({"flags": {"request_events_max": 10_001}}, "--request-events-max: "),
        ({"flags": {"listen": "here"}}, "not an address and a port"),
    ],
)
def test_a_bad_setting_is_refused_with_its_place(given: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedError, match=said):
        read_settings(**given)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8765", ("127.0.0.1", 8765)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_address_to_listen_on_is_read(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["", ":", "1", ":80", "a:", "a:-1", "a:٣", "a:65536", "::1:80"])
def test_what_is_no_address_to_listen_on_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_listen(text)
