"""Both kinds of client use saved queries, and no lie about what one stands for is believed."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_client import AsyncLedgerClient, LedgerClient, RejectedError
from ledger_core.query.saved import SavedNames, SavedQuery
from ledger_core.tlog.errors import VerificationError
from tests.client.liar import Liar
from tests.served import ServedLedger as Running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[LedgerClient]:
    with LedgerClient(running.url, running.token, policy=running.policy) as client:
        client.append_many(
            [
                {"action": "saved.tried", "actor": {"id": f"s_{number}"}, "outcome": "success"}
                for number in range(6)
            ]
        )
        yield client


def test_a_saved_query_is_verified_and_expanded(client: LedgerClient, tmp_path: Path) -> None:
    saved = client.save_query("some", "actor:s_1,s_2")
    assert client.saved_query("some") == saved
    page = client.search("@some action:saved.tried")
    assert page.query == "(actor:s_1 OR actor:s_2) action:saved.tried"
    assert [entry.event.actor.id for entry in page.entries] == ["s_2", "s_1"]
    assert [entry.event.actor.id for entry in client.query("@some", order="oldest")] == [
        "s_1",
        "s_2",
    ]
    exported = client.export("@some", tmp_path / "some.jsonl")
    assert exported.rows == 2
    evidence = client.evidence("@some", tmp_path / "some.zip").evidence
    assert evidence.is_verified
    assert evidence.query == "actor:s_1 OR actor:s_2"
    names = client.saved_queries()
    assert [each.start for each in names.queries if each.name == "some"] == [saved.query]
    assert client.delete_query("some").index > saved.index
    with pytest.raises(RejectedError, match="no query is saved as some"):
        client.search("@some")


def test_a_long_list_is_saved_and_asked_for(client: LedgerClient, tmp_path: Path) -> None:
    feed = "actor:" + ",".join(f"s_{number}" for number in range(6000))
    saved = client.save_query("feed", feed)
    assert client.saved_query("feed").index == saved.index > saved.first_index
    assert client.search("@feed action:saved.tried").total == 6
    with pytest.raises(RejectedError, match="has at most 4,096 characters, with what its @names"):
        client.export("@feed", tmp_path / "events.jsonl")
    with pytest.raises(RejectedError, match="at most 4,096 characters"):
        next(client.tail("@feed"))
    with pytest.raises(RejectedError, match="at most 65,536 characters"):
        client.evidence("@feed", tmp_path / "evidence.zip")
    # A list of the length of an incident's: with more conditions than a query in an address has.
    some = "actor:" + ",".join(f"s_{number}" for number in range(600))
    written = client.evidence(some, tmp_path / "evidence.zip").evidence
    assert (written.is_verified, written.unevaluated) == (True, "")
    relative = client.save_query("today", "action:saved.tried since:-24h")
    assert relative.query == "action:saved.tried time:-1440m.."
    assert client.search("@today").total == 6


def test_the_asynchronous_client_does_the_same(client: LedgerClient, running: Running) -> None:
    client.save_query("one", "actor:s_1")

    async def ask() -> tuple[list[str], str]:
        async with AsyncLedgerClient(running.url, running.token, policy=running.policy) as other:
            found = [entry.event.actor.id async for entry in other.query("@one")]
            return found, (await other.saved_query("one")).query

    assert asyncio.run(ask()) == (["s_1"], "actor:s_1")


def _lie(**changes: Any) -> Callable[[Any], None]:
    return lambda answer: answer.update(changes)


LIES: dict[str, Callable[[Any], None]] = {
    "name": _lie(name="other"),
    "query": _lie(query="actor:nobody"),
    "first_index": lambda answer: answer.update(first_index=answer["first_index"] - 1),
    "index": lambda answer: answer.update(first_index=0, index=0),
    "saved_by": _lie(saved_by="somebody"),
    "time": _lie(time="2026-11-25T02:03:36.123456Z"),
    "tenant": _lie(tenant="acme"),
}


def test_each_member_of_a_saved_query_has_a_lie() -> None:
    assert LIES.keys() == set(SavedQuery.__struct_fields__)
    assert {"tree_size", "queries"} == set(SavedNames.__struct_fields__)  # Nothing is proven.


@pytest.mark.parametrize("member", LIES)
def test_a_lie_about_a_saved_query_is_found_out(
    client: LedgerClient, running: Running, member: str
) -> None:
    client.save_query("lied", "actor:s_1")
    with (
        Liar(running.url) as liar,
        LedgerClient(liar.url, running.token, policy=running.policy) as believer,
    ):

        def lie(said: Any) -> None:
            if said.target.startswith("/v1/queries/"):
                value = said.json
                LIES[member](value)
                said.json = value

        assert believer.search("@lied").total == 1
        liar.lie_to_client = lie
        with pytest.raises(VerificationError):
            believer.search("@lied")
