"""Both clients against the real service: append, prove, read back, remember."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger.service.token_admin import make_token
from ledger_client import (
    AsyncLedgerClient,
    LedgerClient,
    Receipt,
    Rejected,
    RejectedError,
    RetryPolicy,
    VerificationError,
    new_event_id,
)
from ledger_client.plans import export
from ledger_core.event.model import Actor, Event
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.proof import Proof, RangeProof, check_proof, format_proof, parse_proof
from tests.client.conftest import Client, OpenClient
from tests.served import ServedLedger as Running


def event(actor: str = "u_1", **fields: Any) -> dict[str, Any]:
    return {"action": "user.changed", "actor": {"id": actor}, "outcome": "success", **fields}


def receipts(outcomes: list[Receipt | Rejected]) -> list[Receipt]:
    assert all(isinstance(outcome, Receipt) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, Receipt)]


def wait_published(client: Client, size: int) -> None:
    """The service answers an event with its proof once a published head covers it."""
    client.event(size - 1)


def test_an_appended_event_is_proven_to_be_in_the_ledger(running: Running, client: Client) -> None:
    receipt = client.append(event())
    assert not receipt.is_duplicate
    assert receipt.received.by == "application"
    assert receipt.leaf_hash == leaf_hash(receipt.leaf)
    assert receipt.head is not None
    assert receipt.head == client.latest
    assert isinstance(receipt.proof, Proof)
    assert receipt.proof.leaf_index == receipt.index
    # It stands on its own: the text, the leaf and the policy are all that an auditor needs.
    policy = parse_policy(running.policy.read_bytes())
    proof = parse_proof(format_proof(receipt.proof))
    check_proof(proof, leaf_hash=leaf_hash(receipt.leaf), policy=policy)


def test_the_leaf_is_what_was_sent(client: Client) -> None:
    sent = event(
        id=new_event_id(),
        time="2026-11-25T03:03:36.1+01:00",
        source={"ip": "::ffff:203.0.113.9"},
        reason="„Prüfung“ 🙂 שלום",
        context={"number": 1.0, "ключ": None},
    )
    receipt = client.append(sent)
    leaf = msgspec.json.decode(receipt.leaf)
    assert leaf["event"] == {
        **sent,
        "time": "2026-11-25T02:03:36.100000Z",
        "source": {"ip": "203.0.113.9"},
    }
    assert leaf["received"] == {"by": "application", "time": receipt.received.time}


def test_an_event_may_be_given_as_a_struct(client: Client) -> None:
    struct = Event(action="user.changed", actor=Actor(id="u_1"), outcome="success")
    entry = client.event(client.append(struct).id)
    assert entry.event.actor == struct.actor


def test_an_unverified_append_has_no_proof(running: Running, open_client: OpenClient) -> None:
    client = open_client(running.url, running.token)
    receipt = client.append(event(), verify=False)
    assert receipt.head is None
    assert receipt.proof is None
    assert receipt.leaf_hash == leaf_hash(receipt.leaf)


def test_a_batch_is_proven_by_one_range_proof(client: Client) -> None:
    outcomes = receipts(client.append_many(event(f"u_{n}") for n in range(700)))
    first = outcomes[0].index
    assert [outcome.index for outcome in outcomes] == list(range(first, first + 700))
    assert {id(outcome.proof) for outcome in outcomes} == {id(outcomes[0].proof)}
    proof = outcomes[0].proof
    assert isinstance(proof, RangeProof)
    assert (proof.start, proof.end) == (first, first + 700)


def test_a_batch_of_one_and_a_batch_of_none(client: Client) -> None:
    assert client.append_many([]) == []
    (receipt,) = receipts(client.append_many([event()]))
    assert receipt.head is not None


def test_more_events_than_a_request_takes_are_several_requests(client: Client) -> None:
    outcomes = receipts(client.append_many(event(f"u_{n}") for n in range(10_001)))
    assert [msgspec.json.decode(o.leaf)["event"]["actor"]["id"] for o in outcomes] == [
        f"u_{n}" for n in range(10_001)
    ]
    assert len({outcome.index for outcome in outcomes}) == 10_001
    assert all(outcome.head is not None for outcome in outcomes)


def test_more_bytes_than_a_request_takes_are_several_requests(client: Client) -> None:
    reason = "x" * 4096
    context = {f"k{n}": "y" * 1000 for n in range(56)}
    outcomes = receipts(
        client.append_many(event(reason=reason, context=context) for _ in range(600))
    )
    assert len({outcome.index for outcome in outcomes}) == 600


def test_the_same_event_again_is_a_duplicate(client: Client) -> None:
    again = event(id=new_event_id(), time="2026-11-25T02:03:36.123456Z")
    first = client.append(again)
    second = client.append(again)
    assert second.is_duplicate
    assert second.head is not None
    assert (second.index, second.received, second.leaf) == (
        first.index,
        first.received,
        first.leaf,
    )


def test_duplicates_in_a_batch_have_their_own_proofs(client: Client) -> None:
    old = event(id=new_event_id(), time="2026-11-25T02:03:36.123456Z")
    twice = event("u_2", id=new_event_id(), time="2026-11-25T02:03:36.123456Z")
    first = client.append(old)
    outcomes = receipts(client.append_many([event(), old, twice, event(), twice]))
    assert [outcome.is_duplicate for outcome in outcomes] == [False, True, False, False, True]
    assert outcomes[1].index == first.index
    assert outcomes[4].index == outcomes[2].index
    assert isinstance(outcomes[1].proof, Proof)
    assert isinstance(outcomes[4].proof, Proof)
    assert isinstance(outcomes[0].proof, RangeProof)
    assert all(outcome.head is not None for outcome in outcomes)
    again = receipts(client.append_many([old, twice]))
    assert all(outcome.is_duplicate and outcome.head is not None for outcome in again)


def test_an_event_that_is_not_valid_is_found_before_it_is_sent(client: Client) -> None:
    with pytest.raises(RejectedError, match=r"actor\.id") as caught:
        client.append(event(""))
    assert caught.value.problem.field == "actor.id"
    assert caught.value.problem.slug == "too-short"


@pytest.mark.parametrize(
    "context",
    [
        {"at": datetime(2026, 11, 25, tzinfo=UTC)},
        {"set": {1}},
        {"big": 2**53},
        {"nan": nan},
        {1: 2},
    ],
)
def test_what_json_does_not_have_is_refused_and_not_guessed(
    client: Client, context: dict[Any, Any]
) -> None:
    with pytest.raises(RejectedError, match="context"):
        client.append(event(context=context))


def test_a_refused_event_of_a_batch_fails_alone(running: Running, client: Client) -> None:
    taken = new_event_id()
    client.append(event(id=taken))
    outcomes = client.append_many(
        [event(), {"action": "!"}, event("u_2", id=taken), event("u_3"), event(extra=1)]
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Receipt, Rejected, Rejected, Receipt, Rejected]
    refused = [outcome for outcome in outcomes if isinstance(outcome, Rejected)]
    assert [outcome.is_sent for outcome in refused] == [False, True, False]
    assert refused[1].id == taken
    assert refused[1].problem.slug == "id-conflict"
    assert refused[2].problem.field == "extra"


def test_an_id_of_another_event_is_refused(client: Client) -> None:
    taken = new_event_id()
    client.append(event(id=taken))
    with pytest.raises(RejectedError) as caught:
        client.append(event("u_2", id=taken))
    assert caught.value.problem.slug == "id-conflict"


def test_a_batch_of_refused_events_alone_is_no_exception(client: Client) -> None:
    taken = new_event_id()
    client.append(event(id=taken))
    outcomes = client.append_many([event("u_2", id=taken), event("u_3", id=taken)])
    assert [type(outcome) for outcome in outcomes] == [Rejected, Rejected]
    outcomes = client.append_many([{}, {}])
    assert [type(outcome) for outcome in outcomes] == [Rejected, Rejected]


def test_a_witnessed_append_waits_for_a_published_head(client: Client) -> None:
    receipt = client.append(event(), wait_witnessed=True)
    assert receipt.is_witnessed
    assert receipt.head is not None
    assert client.checkpoint().checkpoint.tree_size >= receipt.head.checkpoint.tree_size


def test_events_are_read_by_index_and_by_id(client: Client) -> None:
    receipt = client.append(event("u_42"))
    by_index = client.event(receipt.index)
    by_id = client.event(receipt.id.upper())
    assert by_index.leaf == by_id.leaf == receipt.leaf
    assert by_index.event.actor.id == "u_42"
    assert by_index.received == receipt.received
    assert by_index.head is not None
    assert by_index.proof is not None
    unverified = client.event(receipt.index, verify=False)
    assert unverified.leaf == receipt.leaf
    assert unverified.head is None


def test_an_event_that_is_not_there_is_refused(client: Client) -> None:
    for reference in (10**12, new_event_id()):
        with pytest.raises(RejectedError) as caught:
            client.event(reference)
        assert caught.value.problem.status == 404


@pytest.mark.parametrize("reference", [-1, True, "", "5", "../log", "0192f0c1"])
def test_a_reference_that_is_neither_index_nor_id_is_not_sent(
    client: Client, reference: int | str
) -> None:
    with pytest.raises(ValueError, match=r"index|number") as caught:
        client.event(reference)
    assert not isinstance(caught.value, RejectedError)


@pytest.mark.parametrize("verify", [True, False])
def test_entries_are_read_in_ranges(client: Client, verify: bool) -> None:
    outcomes = receipts(client.append_many(event(f"u_{n}") for n in range(600)))
    first = outcomes[0].index
    wait_published(client, first + 600)
    for start, end in ((0, 600), (0, 1), (599, 600), (37, 301), (255, 257), (300, 300)):
        entries = list(client.events(first + start, first + end, verify=verify))
        assert [entry.leaf for entry in entries] == [o.leaf for o in outcomes[start:end]]
        assert [entry.index for entry in entries] == list(range(first + start, first + end))
        assert all((entry.head is not None) == verify for entry in entries)


def test_all_entries_are_read_without_a_range(client: Client) -> None:
    receipt = client.append(event())
    wait_published(client, receipt.index + 1)
    entries = list(client.events())
    assert len(entries) > receipt.index
    assert [entry.index for entry in entries] == list(range(len(entries)))
    assert entries[receipt.index].leaf == receipt.leaf


def test_a_range_that_the_published_tree_does_not_have_is_the_callers_mistake(
    client: Client,
) -> None:
    for start, end in ((-1, 1), (2, 1), (0, 10**12)):
        with pytest.raises(ValueError, match="not in the published tree"):
            list(client.events(start, end))


def test_inclusion_is_proven_for_an_index(client: Client) -> None:
    receipt = client.append(event())
    wait_published(client, receipt.index + 1)
    inclusion = client.inclusion(receipt.index, leaf_hash=receipt.leaf_hash)
    assert inclusion.leaf_hash == receipt.leaf_hash
    size = inclusion.head.checkpoint.tree_size
    assert client.inclusion(receipt.index, tree_size=size).head == inclusion.head
    with pytest.raises(VerificationError, match="another one"):
        client.inclusion(receipt.index, leaf_hash=leaf_hash(b"another leaf"))


def test_inclusion_in_a_tree_without_a_checkpoint_says_so(client: Client) -> None:
    first, *_ = receipts(client.append_many([event(), event(), event()]))
    wait_published(client, first.index + 3)
    with pytest.raises(ValueError, match=f"no checkpoint of size {first.index + 1}"):
        client.inclusion(first.index, tree_size=first.index + 1)


def test_consistency_is_proven_from_a_head_that_was_kept(client: Client) -> None:
    old = client.append(event())
    assert old.head is not None
    new = client.append(event(), wait_witnessed=True)
    consistency = client.consistency(old.head.note)
    assert consistency.old == old.head
    assert consistency.new.checkpoint.tree_size >= new.index + 1
    assert client.consistency(old.head.note.encode(), consistency.new.note) == consistency
    with pytest.raises(ValueError, match="does not extend"):
        client.consistency(consistency.new.note, old.head.note)


def test_a_published_head_that_lags_is_accepted_and_moves_nothing(client: Client) -> None:
    client.checkpoint()
    receipts(client.append_many([event(), event()]))
    latest = client.latest
    assert latest is not None
    head = client.checkpoint()
    assert head.checkpoint.tree_size <= latest.checkpoint.tree_size
    assert client.latest == latest


def test_without_a_policy_verifying_says_where_to_get_one(
    running: Running, open_client: OpenClient
) -> None:
    client = open_client(running.url, running.token)
    for call in (
        lambda: client.append(event()),
        lambda: client.append_many([event()]),
        lambda: client.event(0),
        lambda: list(client.events()),
        lambda: client.inclusion(0),
        lambda: client.consistency(""),
        client.checkpoint,
    ):
        with pytest.raises(ValueError, match="DIR/policy"):
            call()


def test_a_state_file_without_a_policy_is_refused(running: Running, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a policy"):
        LedgerClient(running.url, state=tmp_path / "state")


def test_a_policy_is_given_as_a_path_or_bytes_or_parsed(
    running: Running, open_client: OpenClient
) -> None:
    data = running.policy.read_bytes()
    for policy in (running.policy, str(running.policy), data, parse_policy(data)):
        open_client(running.url, policy=policy).checkpoint()


def test_a_token_that_is_not_known_is_refused_and_not_shown(
    running: Running, open_client: OpenClient
) -> None:
    client = open_client(running.url, "wl_nobody", policy=running.policy)
    for call in (lambda: client.append(event()), lambda: client.append_many([event(), event()])):
        with pytest.raises(RejectedError) as caught:
            call()
        assert caught.value.problem.status == 401
        assert "wl_nobody" not in str(caught.value) + repr(caught.value.problem)
    assert "wl_nobody" not in repr(client)


def test_a_tenants_event_of_a_batch_fails_alone(running: Running, open_client: OpenClient) -> None:
    token = make_token(running.directory, name=new_event_id(), scopes=("append",), tenant="acme")
    client = open_client(running.url, token, policy=running.policy)
    outcomes = client.append_many([event(tenant="acme"), event(tenant="other"), event()])
    assert [type(outcome) for outcome in outcomes] == [Receipt, Rejected, Rejected]
    assert isinstance(outcomes[1], Rejected)
    assert outcomes[1].problem.slug == "wrong-tenant"
    with pytest.raises(RejectedError) as caught:
        client.event(0)
    assert caught.value.problem.status == 403


def test_a_client_that_starts_again_remembers_its_head(
    running: Running, open_client: OpenClient, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with open_client(running.url, running.token, policy=running.policy, state=state) as client:
        client.append(event())
        client.append(event())
        latest = client.latest
    assert open_client(running.url, policy=running.policy, state=state).latest == latest


def test_a_state_file_that_can_not_be_written_fails_no_append(
    running: Running, tmp_path: Path
) -> None:
    client = LedgerClient(
        running.url, running.token, policy=running.policy, state=tmp_path / "gone" / "state"
    )
    client.append(event())
    with pytest.raises(OSError, match="gone"):
        client.close()


def test_many_threads_share_one_client(running: Running, tmp_path: Path) -> None:
    def work(name: int) -> list[Receipt]:
        found: list[Receipt] = []
        for number in range(25):
            if number % 5 == 4:
                batch = (event(f"t_{name}_{number}_{each}") for each in range(3))
                found += receipts(client.append_many(batch))
            else:
                found.append(client.append(event(f"t_{name}_{number}")))
            if number % 7 == 6:
                client.checkpoint()
                client.event(found[-1].index)
        return found

    state = tmp_path / "state"
    with (
        LedgerClient(running.url, running.token, policy=running.policy, state=state) as client,
        ThreadPoolExecutor(16) as threads,
    ):
        found = [receipt for each in threads.map(work, range(16)) for receipt in each]
        indices = [receipt.index for receipt in found]
        assert len(set(indices)) == len(indices) == 16 * (20 + 5 * 3)
        assert client.latest is not None
        assert client.latest.checkpoint.tree_size > max(indices)
        wait_published(client, max(indices) + 1)
        stored = {entry.index: entry.leaf for entry in client.events(min(indices))}
        assert all(stored[receipt.index] == receipt.leaf for receipt in found)


@pytest.mark.anyio
async def test_cancelled_tasks_leave_an_asynchronous_client_usable(running: Running) -> None:
    async with AsyncLedgerClient(running.url, running.token, policy=running.policy) as ledger:
        for wait_s in (0.0, 0.001, 0.003, 0.005, 0.01, 0.02):
            tasks = [asyncio.create_task(ledger.append(event())) for _ in range(32)]
            await asyncio.sleep(wait_s)
            for task in tasks[::2]:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            kinds = {type(outcome) for outcome in outcomes}
            assert kinds <= {Receipt, asyncio.CancelledError}
        assert (await ledger.append(event())).head is not None


FORKING = """
import os, sys
from ledger_client import LedgerClient

url, token, policy = sys.argv[1:]
event = {"action": "user.changed", "actor": {"id": "u_1"}, "outcome": "success"}
ledger = LedgerClient(url, token, policy=policy)
ledger.append(event)
child = os.fork()
for _ in range(20):
    ledger.append(event)
ledger.close()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_does_not_read_its_parents_answers(running: Running) -> None:
    arguments = [running.url, running.token, str(running.policy)]
    done = subprocess.run(
        [sys.executable, "-c", FORKING, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_client_says_so(client: Client) -> None:
    client.append(event())
    client.close()
    with pytest.raises(ValueError, match="closed"):
        client.append(event())


def test_a_client_is_told_how_often_to_try(open_client: OpenClient, running: Running) -> None:
    retry = RetryPolicy(attempts_max=1)
    assert open_client(running.url, policy=running.policy, retry=retry).checkpoint()


def test_a_policy_that_can_not_be_read_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        LedgerClient("http://127.0.0.1:1", policy=tmp_path / "policy")
    assert "the file DIR/policy of the ledger" in caught.value.__notes__[0]


@pytest.mark.parametrize("call", ["export", "evidence"])
def test_an_answer_leaves_room_on_the_disk_and_keeps_the_file_before(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A service may answer without an end."""
    to = tmp_path / "file"
    to.write_text("before")
    with LedgerClient(running.url, running.token, policy=running.policy) as client:
        client.append(event())
        ask = partial(getattr(client, call), "action:user.changed", to)
        with monkeypatch.context() as little:
            little.setattr(export, "LEFT_BYTES", 1 << 62)
            little.setattr(export, "LEFT_PART", 1)
            with pytest.raises(OSError, match=r"has to leave [0-9,]+ bytes free"):
                ask()
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        assert to.read_text() == "before"
        ask()
    assert to.read_bytes() != b"before"
