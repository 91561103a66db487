"""A mirror holds what its log has published, verified, and answers as the log does."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import ledger.cli  # noqa: F401 - its commands
from ledger.mirror.state import read_status
from ledger_client import LedgerClient
from ledger_client.cli.app import run
from tests.mirror.mirroring import listening, make_mirror, mirroring, ready, state, wait_published
from tests.service.check_log import check_ledger
from tests.service.serving import Ledger, event, make_ledger, serving
from tests.waiting import until


@pytest.fixture
def mirror(tmp_path: Path, ledger: Ledger) -> Iterator[Ledger]:
    """A served mirror of `ledger`."""
    folder = tmp_path / "mirror"
    with mirroring(folder, make_mirror(folder, ledger)) as mirror:
        yield mirror
        wait_published(mirror, check_ledger(ledger).size)
        assert check_ledger(mirror).leaves == check_ledger(ledger).leaves


def test_a_mirror_answers_reads_as_its_log_does(ledger: Ledger, mirror: Ledger) -> None:
    # More than two bundles before the mirror has any, and more while it follows.
    ledger.append(*(event(actor={"id": f"u_{n % 7}"}) for n in range(600)))
    wait_published(mirror, state(ledger)["tree_size"])
    ledger.append(*(event(actor={"id": f"u_{n % 7}"}) for n in range(20)))
    size = state(ledger)["tree_size"]
    wait_published(mirror, size)
    wait_published(ledger, size)
    own = {"took_ms", "cursor"}
    for target in (
        "/v1/events?q=actor:u_3&limit=5&facets=action",
        "/v1/events/611?proof=1",
        "/v1/events/17/around",
        "/v1/actors/u_3/timeline?proof=1&limit=3",
        "/v1/proofs/consistency?from=100&to=620",
        "/v1/export?q=actor:u_2&format=csv",
    ):
        theirs, ours = ledger.ask(target), mirror.ask(target)
        assert theirs.status == ours.status == 200, (target, theirs.text, ours.text)
        if theirs.headers["Content-Type"] == "application/json":
            want = {name: value for name, value in theirs.json().items() if name not in own}
            got = {name: value for name, value in ours.json().items() if name not in own}
            assert got == want, target
        else:
            assert ours.body == theirs.body, target
    assert state(mirror)["mirror_of"] == ledger.url
    assert "mirror_of" not in state(ledger)


def test_a_client_verifies_a_mirror_by_the_policy_of_the_log(
    ledger: Ledger, mirror: Ledger
) -> None:
    ledger.append(*(event(actor={"id": "u_9"}) for _ in range(3)))
    wait_published(mirror, state(ledger)["tree_size"])
    with LedgerClient(mirror.url, mirror.tokens["read"], policy=ledger.policy) as client:
        assert len(list(client.query("actor:u_9"))) == 3


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/events", b"{}"),
        ("/v1/otlp/v1/logs", b"{}"),
        ("/v1/private/erasures", b'{"subject":"s","reason":"r"}'),
        ("/v1/evidence", b"{}"),
    ],
)
def test_a_mirror_refuses_what_appends_and_names_the_log(
    ledger: Ledger, mirror: Ledger, target: str, body: bytes
) -> None:
    answer = mirror.ask(target, method="POST", body=body, content_type="application/json")
    assert (answer.status, answer.slug) == (503, "mirror")
    assert ledger.url in answer.json()["detail"]
    assert answer.headers["Retry-After"] == "60"


def test_a_mirror_serves_on_when_its_log_is_gone_and_goes_on_when_it_is_back(
    tmp_path: Path,
) -> None:
    folder, directory = tmp_path / "mirror", tmp_path / "ledger"
    tokens = make_ledger(directory)
    with ExitStack() as opened:
        with serving(directory, tokens) as ledger:
            ledger.append(*(event() for _ in range(300)))
            own = make_mirror(folder, ledger)
            mirror = opened.enter_context(mirroring(folder, own))
            size = state(ledger)["tree_size"]
            wait_published(mirror, size)
        gone = "has not answered rightly since"
        until(lambda: gone in str(ready(mirror)["warnings"]), gone)
        assert ready(mirror)["status"] == "ready"
        assert mirror.ask("/v1/events/299?proof=1").status == 200
        lag = "ledger_mirror_lag_seconds"
        until(lambda: f"{lag} 0" not in mirror.ask("/metrics").text.splitlines(), "a lag")
        status = folder / "status.json"
        until(lambda: read_status(status).failing_since_unix_s > 0, "the status file")
    # The mirror starts again without its log, and with it where it was.
    with mirroring(folder, own) as mirror:
        assert check_ledger(mirror).size == size
    port = ledger.url.rpartition(":")[2]
    with (
        serving(directory, tokens, listening(port)) as ledger,
        mirroring(folder, own) as mirror,
    ):
        ledger.append(*(event() for _ in range(300)))
        wait_published(mirror, size + 300)
        assert check_ledger(mirror).leaves == check_ledger(ledger).leaves


def test_fsck_names_damage_to_what_a_mirror_has_beside_a_ledger(
    tmp_path: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mirror"
    tokens = make_mirror(folder, ledger)
    ledger.append(event(), event())
    with mirroring(folder, tokens) as mirror:
        wait_published(mirror, state(ledger)["tree_size"])
    assert run(["fsck", str(folder)]) == 0
    for name in ("mirror.toml", "head.json", "cosigner/key", "cosigner/heads/data.mdb"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        assert run(["fsck", str(folder)]) == 1, name
        assert name.partition("/")[0] in capsys.readouterr().err
        (folder / name).write_bytes(whole)
    # One bit of the address is no fault of form: its hash at the last start shows it.
    config = folder / "mirror.toml"
    config.write_text(config.read_text().replace("127.0.0.1", "127.0.0.2"))
    assert run(["fsck", str(folder)]) == 1
    assert "mirror.toml is not as it was" in capsys.readouterr().err
