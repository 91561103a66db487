"""Tokens that end, that are replaced by another one, and that may do a part of what others may."""

import http.client
import json
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.cli.token import command
from ledger.service.data_dir import DirectoryPaths
from ledger.service.fsck import check_directory
from ledger.service.token_admin import make_token, open_access, rotate_token
from ledger.store.tokens import SCOPES, TokenLimits
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import parse_leaf
from tests.service.check_log import check_ledger
from tests.service.serving import Ledger, event, ledger_command, make_ledger, serving

WAIT_S = 120.0
HOUR_US = 3_600_000_000


def until_refused(ledger: Ledger, token: str) -> str:
    """Ask until the token is refused; the body of the answer."""
    end_s = time.monotonic() + WAIT_S
    while (answer := ledger.ask("/v1/events", token=token)).status == 200:
        assert time.monotonic() < end_s
        time.sleep(0.02)
    assert (answer.status, answer.slug) == (401, "token-unknown")
    return answer.text


def test_a_token_ends_by_itself(ledger: Ledger) -> None:
    directory = str(ledger.directory)
    make = ("token", "create", directory, "--scope", "read", "--name")
    long = ledger_command(*make, "long", "--expires", "90d")
    short = ledger_command(*make, "short", "--expires", "2s")
    assert ledger.ask("/v1/events", token=long).status == 200
    assert "this token expired at 20" in until_refused(ledger, short)
    assert ledger.ask("/v1/events", token=long).status == 200
    listed = ledger_command("token", "list", directory)
    assert "short  read  expired 20" in listed
    assert "long  read  in use until 20" in listed
    # The name of a token that has expired is free again.
    assert ledger.ask("/v1/events", token=ledger_command(*make, "short")).status == 200


def test_a_token_that_appends_nothing_has_no_actions(tmp_path: Path) -> None:
    make_ledger(tmp_path / "audit")
    make = partial(make_token, tmp_path / "audit", tenant=None, actions=("billing.*",))
    with pytest.raises(ValueError, match="needs the scope append"):
        make(name="reader", scopes=("read",))
    assert make(name="root", scopes=("admin",))
    with pytest.raises(LookupError, match="no token named 'reader'"):
        rotate_token(tmp_path / "audit", name="reader", overlap_s=0)


def test_an_open_stream_ends_with_its_token(ledger: Ledger) -> None:
    token = ledger_command(
        *("token", "create", str(ledger.directory), "--name", "brief", "--scope", "query"),
        *("--expires", "3s"),
    )
    # It has no end of its own; the connection is cut, which the reader of chunks notices.
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ledger.ask("/v1/events/stream", token=token)


def test_a_replaced_token_goes_on_for_a_while_beside_the_new_one(ledger: Ledger) -> None:
    directory = str(ledger.directory)
    old = ledger_command(
        *("token", "create", directory, "--name", "app", "--scope", "read", "--scope", "append"),
        *("--action", "billing.*", "--network", "127.0.0.0/8", "--requests-per-minute", "1000"),
    )
    made = json.loads(
        ledger_command("token", "rotate", directory, "app", "--overlap", "1h", "--json")
    )
    new = made["token"]
    for token in (old, new):
        answer = ledger.append(event(action="billing.paid"), token=token)
        assert answer.json()["results"][0]["received"]["by"] == "app"
        assert ledger.append(event(), token=token).slug == "all-refused"
    newest = json.loads(
        ledger_command("token", "rotate", directory, "app", "--overlap", "0s", "--json")
    )["token"]
    for token in (old, new):
        assert ledger.ask("/v1/events", token=token).status == 401
    assert ledger.ask("/v1/events", token=newest).status == 200
    ledger_command("token", "revoke", directory, "app")
    assert ledger.ask("/v1/events", token=newest).status == 401


def test_revoking_ends_a_replaced_token_too(ledger: Ledger) -> None:
    directory = str(ledger.directory)
    new = ledger_command("token", "rotate", directory, "read")
    for token in ("read", new):
        assert ledger.ask("/v1/events", token=token).status == 200
    ledger_command("token", "revoke", directory, "read")
    for token in ("read", new):
        assert ledger.ask("/v1/events", token=token).status == 401


def test_an_older_copy_brings_a_replaced_token_back_for_no_longer(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens):
        pass
    shutil.copytree(directory / "access", tmp_path / "before")
    new, *_ = rotate_token(directory, name="read", overlap_s=0)
    with serving(directory, tokens) as ledger:
        assert ledger.ask("/v1/events", token=new).status == 200
        assert ledger.ask("/v1/events", token="read").status == 401
        actions = [parse_leaf(leaf).event.action for leaf in check_ledger(ledger).leaves]
        assert actions.count("ledger.token.created") == len(tokens) + 1
    shutil.rmtree(directory / "access")
    shutil.copytree(tmp_path / "before", directory / "access")
    found = [str(each) for each in check_directory(DirectoryPaths(directory)).problems]
    assert any("'read' of 20" in each and "was replaced" in each for each in found), found
    with serving(directory, tokens) as ledger:
        assert ledger.ask("/v1/events", token="read").status == 401
        assert ledger.ask("/v1/events").status == 200


ROUTES = {
    "GET /v1/events": {"read", "query"},
    "GET /v1/events/0": {"read", "query"},
    "GET /v1/fields": {"read", "query"},
    "GET /v1/values?field=actor": {"read", "query"},
    "GET /v1/queries": {"read", "query"},
    "GET /v1/export": {"read", "export"},
    "GET /tile/entries/000.p/1": {"read", "export"},
    "POST /v1/private/erasures": {"erase"},
}
NETWORKS = {
    ("127.0.0.0/8",): True,
    ("10.0.0.0/8", "127.0.0.1"): True,
    ("10.0.0.0/8",): False,
    ("::1/128",): False,
}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A served ledger with a token of each scope, of each networks, and one for two actions."""
    directory = tmp_path_factory.mktemp("narrow") / "ledger"
    tokens = make_ledger(directory)
    make = partial(make_token, directory, tenant=None)
    for scope in SCOPES:
        tokens[f"only {scope}"] = make(name=f"only {scope}", scopes=(scope,))
    for networks in NETWORKS:
        name = f"from {networks}"
        tokens[name] = make(name=name, scopes=("admin",), networks=networks)
    tokens["leaked"] = make(
        name="leaked",
        scopes=("admin",),
        networks=("10.0.0.0/8",),
        limits=TokenLimits(requests_per_minute=2),
    )
    actions = ("billing.*", "login.failed")
    tokens["billing"] = make(name="billing", scopes=("append",), actions=actions)
    with serving(directory, tokens) as ledger:
        yield ledger


@pytest.mark.parametrize("request_line", ROUTES)
def test_each_scope_opens_its_routes_alone(narrow: Ledger, request_line: str) -> None:
    method, target = request_line.split()
    assert narrow.ask("/v1/proofs/inclusion?index=0").status == 200  # There is a published head.
    for scope in SCOPES:
        body = b'{"subject":"nobody","reason":"a test"}' if method == "POST" else None
        answer = narrow.ask(
            target,
            method=method,
            body=body,
            token=f"only {scope}",
            content_type="application/json",
        )
        is_open = scope in {*ROUTES[request_line], "admin"}
        assert (answer.status == 200) == is_open, (scope, answer.body)
        assert is_open or answer.slug == "scope-missing"


@pytest.mark.parametrize("networks", NETWORKS)
def test_a_token_is_taken_from_its_networks_alone(
    narrow: Ledger, networks: tuple[str, ...]
) -> None:
    answer = narrow.ask("/v1/events", token=f"from {networks}")
    if NETWORKS[networks]:
        assert answer.status == 200
    else:
        assert (answer.status, answer.slug) == (403, "wrong-network")


def test_who_has_a_token_elsewhere_uses_up_none_of_its_limits(narrow: Ledger) -> None:
    answers = [narrow.ask("/v1/events", token="leaked") for _ in range(5)]
    assert [answer.slug for answer in answers] == ["wrong-network"] * 5
    assert b'token="leaked"' not in narrow.ask("/metrics").body


def test_a_token_appends_its_actions_alone_and_reports_of_losses(narrow: Ledger) -> None:
    allowed = ("billing.paid", "billing.a.b", "login.failed", "ledger.recorder.dropped")
    others = ("billing", "login.failed.x", "billingx.y")
    events = [event(action=action) for action in (*allowed, *others)]
    results = narrow.append(*events, token="billing").json()["results"]
    kinds = [result.get("error", {}).get("type", "") for result in results]
    refused = "/v1/problems#action-not-allowed"
    assert kinds == [""] * len(allowed) + [refused] * len(others)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--expires", "soon"), "want a while such as 90d"),
        (("--expires", "2020-01-01T00:00:00Z"), "would have expired"),
        (("--network", "10.0.0.1/8"), "not a network such as"),
        (("--action", "a..b"), "not an action"),
        (("--action", ".*"), "not an action"),
    ],
)
def test_what_a_token_can_not_have_is_refused(
    tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    directory = tmp_path / "ledger"
    make_ledger(directory)
    said = CliRunner().invoke(
        command, ["create", str(directory), "--name", "x", "--scope", "read", *flags]
    )
    assert said.exit_code == 2
    assert message in " ".join(said.output.split())
    with open_access(directory) as access:
        assert "x" not in {record.name for record in access.records()}


def test_a_new_token_lasts_as_long_as_the_old_one_was_made_to(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    make_ledger(directory)
    make_token(
        directory,
        name="app",
        scopes=("read",),
        tenant=None,
        expires_unix_us=unix_us() + HOUR_US,
    )
    _, record, _ = rotate_token(directory, name="app", overlap_s=0)
    assert record.expires is not None
    with open_access(directory) as access:
        old = next(each for each in access.records() if each.name == "app")
    assert old.expires is not None
    assert old.expires < record.expires
