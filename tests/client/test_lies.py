"""A server that lies is found out, whatever it lies about, and the evidence is kept."""

import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger_client import (
    LedgerClient,
    Problem,
    Receipt,
    RejectedError,
    RetryPolicy,
    UnsettledError,
    new_event_id,
)
from ledger_client.cli.query import QueryMistakeError
from ledger_core.api import AppendAnswer, ConsistencyAnswer, Result
from ledger_core.event.canonical import format_leaf
from ledger_core.event.model import Event
from ledger_core.tlog.checkpoint import Checkpoint, format_checkpoint, parse_checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.note import Note, Signer, format_note, parse_note
from ledger_core.tlog.proof import format_proof, format_range_proof, parse_proof, parse_range_proof
from ledger_core.tlog.text import format_base64
from tests.client.conftest import Client, OpenClient
from tests.client.liar import Liar, Lie, Message
from tests.conftest import TESTS_DIR
from tests.served import FLAGS, ORIGIN
from tests.served import ServedLedger as Running

TIME = "2026-11-25T02:03:36.123456Z"


def event(actor: str = "u_1", **fields: Any) -> dict[str, Any]:
    return {"action": "user.changed", "actor": {"id": actor}, "outcome": "success", **fields}


def _actors(error: UnsettledError) -> list[str]:
    return [each.actor.id for each in error.unsettled if isinstance(each, Event)]


@pytest.fixture
def liar(running: Running) -> Iterator[Liar]:
    with Liar(running.url) as liar:
        yield liar


@pytest.fixture
def client(running: Running, liar: Liar, open_client: OpenClient, tmp_path: Path) -> Client:
    """A client of the liar, which it has believed for a while."""
    client = open_client(liar.url, running.token, policy=running.policy, state=tmp_path / "state")
    client.append(event())
    return client


def about(path: str, change: Callable[[Any], None]) -> Lie:
    """A lie that changes the JSON of the answers under a path."""

    def lie(message: Message) -> None:
        if message.target.startswith(path):
            value = message.json
            change(value)
            message.json = value

    return lie


def forged(note: str, **changes: Any) -> str:
    """The head of a note, changed, signed by a key of the same name that no policy has."""
    checkpoint = parse_checkpoint(parse_note(note).text)
    fields = {
        "origin": checkpoint.origin,
        "tree_size": checkpoint.tree_size,
        "root_hash": checkpoint.root_hash,
        **changes,
    }
    text = format_checkpoint(Checkpoint(**fields))
    signer = Signer.generate(checkpoint.origin, seed=bytes(32))
    return format_note(Note(text, (signer.sign(text),)))


def of_result(**changes: Any) -> Callable[[Any], None]:
    def change(answer: Any) -> None:
        answer["results"][-1].update(changes)

    return change


def without_result(*names: str) -> Callable[[Any], None]:
    def change(answer: Any) -> None:
        for name in names:
            answer["results"][-1].pop(name)

    return change


def with_received(**changes: str) -> Callable[[Any], None]:
    def change(answer: Any) -> None:
        answer["results"][-1]["received"].update(changes)

    return change


def with_no_result(answer: Any) -> None:
    answer["results"].pop()


def with_one_more_result(answer: Any) -> None:
    answer["results"].append(answer["results"][0])


def with_proof_for_another_index(answer: Any) -> None:
    result = answer["results"][0]
    proof = parse_proof(result["proof"])
    other = type(proof)(proof.leaf_index - 1, proof.hashes, proof.checkpoint)
    result["proof"] = format_proof(other)


def with_proof_of_another_leaf(answer: Any) -> None:
    result = answer["results"][0]
    proof = parse_proof(result["proof"])
    hashes = (sha256(b"another leaf").digest(), *proof.hashes[1:])
    result["proof"] = format_proof(type(proof)(proof.leaf_index, hashes, proof.checkpoint))


def with_a_forged_head(answer: Any) -> None:
    result = answer["results"][0]
    proof = parse_proof(result["proof"])
    result["proof"] = format_proof(
        type(proof)(proof.leaf_index, proof.hashes, forged(proof.checkpoint))
    )


def with_index_and_proof_moved(answer: Any) -> None:
    result = answer["results"][0]
    result["index"] -= 1
    with_proof_for_another_index(answer)


def with_an_untrue_consistency(answer: Any) -> None:
    answer["consistency"]["hashes"][0] = format_base64(sha256(b"nothing").digest())


APPEND_LIES = [
    of_result(index=0),
    of_result(id=new_event_id()),
    of_result(leaf_hash=format_base64(leaf_hash(b"another leaf"))),
    of_result(leaf_hash="nothing"),
    of_result(filled=["time"]),
    of_result(filled=["id"]),
    with_received(by="somebody else"),
    with_received(time=TIME),
    without_result("proof"),
    with_no_result,
    with_one_more_result,
    with_proof_for_another_index,
    with_proof_of_another_leaf,
    with_a_forged_head,
    with_index_and_proof_moved,
    with_an_untrue_consistency,
]


@pytest.mark.parametrize("number", range(len(APPEND_LIES)))
def test_no_lie_about_an_appended_event_is_believed(
    client: Client, liar: Liar, number: int
) -> None:
    liar.lie_to_client = about("/v1/events", APPEND_LIES[number])
    before = client.latest
    with pytest.raises(VerificationError):
        client.append(event())
    assert client.latest is not None
    assert before is not None
    liar.lie_to_client = lambda _: None
    assert client.append(event()).head is not None


RESULT_LIES: dict[str, list[Callable[[Any], None]]] = {
    "index": [of_result(index=0), of_result(index=2**62)],
    "id": [of_result(id=new_event_id())],
    "received": [with_received(by="somebody else"), with_received(time=TIME)],
    "leaf_hash": [of_result(leaf_hash=format_base64(leaf_hash(b"another leaf")))],
    "filled": [of_result(filled=["id"])],
    "masked": [of_result(masked=[{"path": "/actor/id", "rule": "a-rule"}])],
    "committed": [of_result(committed=[{"path": "/actor/id", "salt": format_base64(bytes(32))}])],
    "proof": [without_result("proof"), with_proof_of_another_leaf, with_a_forged_head],
}
"""Lies about each member of the result for an event."""

UNCHECKED_OF_APPENDS = {Result: {"duplicate", "time"}, AppendAnswer: {"witnessed"}}
"""What no check can be made of. docs/security-model.md gives the reasons."""


def test_the_table_has_every_member_of_the_answer_to_an_append() -> None:
    known = set(RESULT_LIES) | UNCHECKED_OF_APPENDS[Result]
    assert known == set(Result.__struct_fields__)
    batch = {"results", "range_proof", "consistency"} | UNCHECKED_OF_APPENDS[AppendAnswer]
    assert batch == set(AppendAnswer.__struct_fields__)
    text = (Path(TESTS_DIR).parent / "docs/security-model.md").read_text()
    for names in UNCHECKED_OF_APPENDS.values():
        assert all(f"`{name}`" in text for name in names)


@pytest.mark.parametrize("member", RESULT_LIES)
def test_each_member_of_a_result_is_held_against_what_was_sent(
    client: Client, liar: Liar, member: str
) -> None:
    for lie in RESULT_LIES[member]:
        liar.lie_to_client = about("/v1/events", lie)
        with pytest.raises((VerificationError, MalformedError)):
            client.append(event())


def with_hashes(hashes: list[str]) -> Callable[[Any], None]:
    return lambda answer: answer.update(hashes=hashes)


CONSISTENCY_LIES: dict[str, list[Callable[[Any], None]]] = {
    "from_": [lambda answer: answer.update({"from": answer["from"] + 1})],
    "to": [lambda answer: answer.update(to=answer["to"] - 1)],
    "hashes": [
        with_hashes([]),
        with_hashes([format_base64(bytes(32))] * 62),
        lambda answer: answer["hashes"].append(answer["hashes"][0]),
    ],
}


@pytest.mark.parametrize("member", CONSISTENCY_LIES)
def test_each_member_of_a_consistency_proof_is_checked(
    client: Client, liar: Liar, member: str
) -> None:
    assert set(CONSISTENCY_LIES) | {"checkpoint"} == set(ConsistencyAnswer.__struct_fields__)
    old = client.checkpoint()
    grown = client.append_many([event(), event(), event(), event()])[-1]
    while client.checkpoint().checkpoint.tree_size <= old.checkpoint.tree_size + 3:
        client.append(event(), wait_witnessed=True)
    assert isinstance(grown, Receipt)
    assert client.consistency(old.note).proof.hashes
    for lie in CONSISTENCY_LIES[member]:
        liar.lie_to_client = about("/v1/proofs/consistency", lie)
        with pytest.raises((VerificationError, MalformedError)):
            client.consistency(old.note)


def change_actor(message: Message) -> None:
    message.body = message.body.replace(b'"u_honest"', b'"u_framed"')


def test_an_event_that_was_altered_on_its_way_is_found_out(client: Client, liar: Liar) -> None:
    liar.lie_to_service = change_actor
    with pytest.raises(VerificationError, match="leaf hash of what was sent") as caught:
        client.append(event("u_honest"))
    assert b"u_honest" in caught.value.evidence["sent.json"]
    outcomes = [event(), event("u_honest"), event()]
    with pytest.raises(VerificationError, match="leaf hash of what was sent"):
        client.append_many(outcomes)


def test_an_altered_event_with_the_hash_that_is_hoped_for_is_found_out(
    client: Client, liar: Liar
) -> None:
    sent: list[bytes] = []

    def alter(message: Message) -> None:
        sent.append(message.body)
        change_actor(message)

    def tell_what_is_hoped_for(answer: Any) -> None:
        for body, result in zip(sent[-1].splitlines(), answer["results"], strict=True):
            leaf = format_leaf(
                event_json=body,
                by=result["received"]["by"],
                received_time=result["received"]["time"],
            )
            result["leaf_hash"] = format_base64(leaf_hash(leaf))

    liar.lie_to_service = alter
    liar.lie_to_client = about("/v1/events", tell_what_is_hoped_for)
    with pytest.raises(VerificationError, match="is not in the tree") as caught:
        client.append(event("u_honest"))
    assert {"sent.json", "leaf.json", "answer.json"} <= set(caught.value.evidence)
    with pytest.raises(VerificationError, match="are not in the tree") as caught:
        client.append_many([event(), event("u_honest"), event()])
    assert {"range-proof.txt", "leaf-hashes.txt"} <= set(caught.value.evidence)


def with_another_range(answer: Any) -> None:
    proof = parse_range_proof(answer["range_proof"])
    moved = type(proof)(proof.start - 1, proof.end - 1, proof.hashes, proof.checkpoint)
    answer["range_proof"] = format_range_proof(moved)


def with_a_shorter_range(answer: Any) -> None:
    proof = parse_range_proof(answer["range_proof"])
    shorter = type(proof)(proof.start, proof.end - 1, proof.hashes, proof.checkpoint)
    answer["range_proof"] = format_range_proof(shorter)


def with_all_moved(answer: Any) -> None:
    for result in answer["results"]:
        result["index"] -= 1
    with_another_range(answer)


def with_a_forged_range_head(answer: Any) -> None:
    proof = parse_range_proof(answer["range_proof"])
    answer["range_proof"] = format_range_proof(
        type(proof)(proof.start, proof.end, proof.hashes, forged(proof.checkpoint))
    )


def with_two_results_swapped(answer: Any) -> None:
    results = answer["results"]
    results[0], results[1] = results[1], results[0]


def with_two_indices_swapped(answer: Any) -> None:
    first, second, *_ = answer["results"]
    first["index"], second["index"] = second["index"], first["index"]


def without_range_proof(answer: Any) -> None:
    answer.pop("range_proof")


BATCH_LIES = [
    *(lie for lie in APPEND_LIES[:9] if lie is not APPEND_LIES[8]),
    of_result(duplicate=True),
    with_no_result,
    with_one_more_result,
    with_another_range,
    with_a_shorter_range,
    with_all_moved,
    with_a_forged_range_head,
    with_two_results_swapped,
    with_two_indices_swapped,
    without_range_proof,
    with_an_untrue_consistency,
]


@pytest.mark.parametrize("number", range(len(BATCH_LIES)))
def test_no_lie_about_a_batch_is_believed(client: Client, liar: Liar, number: int) -> None:
    liar.lie_to_client = about("/v1/events", BATCH_LIES[number])
    with pytest.raises(VerificationError):
        client.append_many([event(), event(), event()])


def test_a_duplicate_is_held_against_what_was_sent_too(client: Client, liar: Liar) -> None:
    again = event("u_honest", id=new_event_id(), time=TIME)
    client.append(again)
    for lie in (
        with_received(time=TIME),
        of_result(index=0),
        with_proof_for_another_index,
        without_result("proof"),
    ):
        liar.lie_to_client = about("/v1/events", lie)
        with pytest.raises(VerificationError):
            client.append(again)
    with pytest.raises(VerificationError):
        client.append_many([event(), again])


def test_a_duplicate_that_never_was_one_is_found_out(client: Client, liar: Liar) -> None:
    # The event is dropped, and the client is pointed at another one that is there.
    old = client.append(event("u_old"))

    def drop(message: Message) -> None:
        message.body = old.leaf[len(b'{"event":') : old.leaf.index(b',"received"')]

    liar.lie_to_service = drop
    with pytest.raises(VerificationError, match="id of a result"):
        client.append(event("u_new"))


def test_an_answer_without_the_offered_proof_costs_one_more_request(
    client: Client, liar: Liar
) -> None:
    def without_consistency(answer: Any) -> None:
        answer.pop("consistency", None)

    liar.lie_to_client = about("/v1/events", without_consistency)
    assert client.append(event()).head is not None
    assert liar.targets[-1].startswith("/v1/proofs/consistency")


def with_another_leaf(answer: Any) -> None:
    answer["leaf"] = answer["leaf"].replace("u_honest", "u_framed")


def with_another_leaf_index(answer: Any) -> None:
    answer["index"] -= 1


def without_event_proof(answer: Any) -> None:
    answer.pop("proof")


@pytest.mark.parametrize("lie", [with_another_leaf, with_another_leaf_index, without_event_proof])
def test_no_lie_about_an_event_is_believed(
    client: Client, liar: Liar, lie: Callable[[Any], None]
) -> None:
    receipt = client.append(event("u_honest"))
    liar.lie_to_client = about("/v1/events/", lie)
    for reference in (receipt.index, receipt.id):
        with pytest.raises(VerificationError) as caught:
            client.event(reference)
        assert "answer.json" in caught.value.evidence


def test_another_true_event_than_the_one_asked_for_is_refused(client: Client, liar: Liar) -> None:
    first, second = client.append(event()), client.append(event())

    def ask_for_another(message: Message) -> None:
        message.target = f"/v1/events/{first.index}?proof=1"

    liar.lie_to_service = ask_for_another
    for reference in (second.index, second.id):
        with pytest.raises(VerificationError, match="event asked for"):
            client.event(reference)


def flip_a_bit(prefix: str, at: int) -> Lie:
    def lie(message: Message) -> None:
        if message.target.startswith(prefix) and message.status == 200:
            position = at % len(message.body)
            flipped = message.body[position] ^ 1
            message.body = message.body[:position] + bytes([flipped]) + message.body[position + 1 :]

    return lie


@pytest.mark.parametrize(
    ("prefix", "at"),
    [
        ("/tile/entries/", 20),
        ("/tile/entries/", -20),
        ("/tile/0/", 0),
        ("/tile/1/", 5),
        ("/checkpoint", 25),
    ],
)
def test_one_flipped_bit_of_what_is_read_is_found_out(
    client: Client, liar: Liar, prefix: str, at: int
) -> None:
    outcomes = client.append_many(event(f"u_{number}") for number in range(600))
    last = outcomes[-1]
    assert isinstance(last, Receipt)
    client.event(last.index)
    # A tree of whole bundles is checked without any tile of level 0: there would be no lie.
    while client.checkpoint().checkpoint.tree_size % 256 == 0:
        client.event(client.append(event("u_more")).index)
    liar.lie_to_client = flip_a_bit(prefix, at)
    with pytest.raises((VerificationError, MalformedError)):
        list(client.events())
    liar.lie_to_client = lambda _: None
    assert len(list(client.events(last.index - 599, last.index + 1))) == 600


def test_entries_left_out_of_a_bundle_are_missed(client: Client, liar: Liar) -> None:
    client.append_many(event(f"u_{number}") for number in range(300))

    def shorten(message: Message) -> None:
        if message.target.startswith("/tile/entries/"):
            message.body = message.body[: 2 + int.from_bytes(message.body[:2])]

    liar.lie_to_client = shorten
    with pytest.raises(MalformedError, match="has 1 entries"):
        list(client.events())


def test_a_partial_bundle_that_is_gone_is_read_from_the_full_one(
    client: Client, liar: Liar
) -> None:
    # A log may delete partial tiles once the full ones are there (c2sp.org/tlog-tiles).
    outcomes = client.append_many(event(f"u_{number}") for number in range(300))
    last = outcomes[-1]
    assert isinstance(last, Receipt)
    client.event(last.index)
    size = client.checkpoint().checkpoint.tree_size
    checkpoint: list[bytes] = []

    def freeze_and_delete(message: Message) -> None:
        if message.target == "/checkpoint":
            checkpoint.append(message.body)
            message.body = checkpoint[0]
        elif ".p/" in message.target and not message.target.startswith("/tile/1/"):
            message.status, message.body = 404, b"{}"

    liar.lie_to_client = freeze_and_delete
    client.checkpoint()
    more = client.append_many(event(f"u_{number}") for number in range(300))[-1]
    assert isinstance(more, Receipt)
    client.event(more.index)
    start = size - 280
    assert [entry.index for entry in client.events(start)] == list(range(start, size))


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"not JSON", MalformedError),
        (200, b"[]", MalformedError),
        (200, b"{}", MalformedError),
        (200, b'{"results":[{"index":-1}]}', MalformedError),
        (200, b'{"results":[{"index":1}]}', MalformedError),
        (200, b"[" * 100_000, MalformedError),
        (200, b"\xff\xfe", MalformedError),
        (302, b"", MalformedError),
        (500, b"<html>", UnsettledError),
        (507, b'{"type":"/v1/problems#storage-full","detail":"full"}', UnsettledError),
        (503, b"", UnsettledError),
    ],
)
def test_an_answer_that_is_none_is_the_error_that_it_is(
    running: Running,
    liar: Liar,
    open_client: OpenClient,
    status: int,
    body: bytes,
    kind: type[Exception],
) -> None:
    def say(message: Message) -> None:
        message.status, message.body = status, body

    liar.lie_to_client = say
    client = open_client(
        liar.url, running.token, policy=running.policy, retry=RetryPolicy(attempts_max=1)
    )
    with pytest.raises(kind):
        client.append(event())


def test_a_problem_is_shown_without_what_a_terminal_would_obey(client: Client, liar: Liar) -> None:
    def say(message: Message) -> None:
        message.status = 404
        message.json = {"type": "/v1/problems#x", "detail": "\x1b[2J\r\n" + "y" * 10_000}

    liar.lie_to_client = say
    with pytest.raises(ValueError, match="yyy") as caught:
        client.event(0)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_append_whose_answer_was_lost_is_sent_again_and_stored_once(
    client: Client, liar: Liar, status: int
) -> None:
    lost: list[str] = []

    def lose_two_answers(message: Message) -> None:
        if message.target.startswith("/v1/events") and len(lost) < 2:
            lost.append(message.target)
            message.status, message.body = status, b""

    liar.lie_to_client = lose_two_answers
    receipt = client.append(event())
    assert len(lost) == 2
    assert receipt.is_duplicate
    assert receipt.head is not None


def test_a_ledger_that_is_away_leaves_an_append_unsettled(
    running: Running, open_client: OpenClient
) -> None:
    with Liar(running.url) as gone:
        url = gone.url
    client = open_client(
        url, running.token, policy=running.policy, retry=RetryPolicy(attempts_max=2)
    )
    with pytest.raises(UnsettledError, match=r"attempt 2 of 2") as caught:
        client.append(event("u_1"))
    assert _actors(caught.value) == ["u_1"]
    with pytest.raises(UnavailableError) as lost:
        client.checkpoint()
    assert not isinstance(lost.value, UnsettledError)


def test_a_proof_that_is_not_for_this_client_is_no_fork(client: Client, liar: Liar) -> None:
    def refuse(message: Message) -> None:
        if message.target.startswith("/v1/proofs/consistency"):
            message.status, message.body = 403, b"{}"
        elif message.target.startswith("/v1/events"):
            answer = message.json
            answer.pop("consistency")
            message.json = answer

    liar.lie_to_client = refuse
    with pytest.raises(RejectedError) as caught:
        client.append(event())
    assert caught.value.problem.status == 403
    liar.lie_to_client = lambda _: None
    assert client.append(event()).head is not None


def test_what_is_unsettled_can_be_appended_again(client: Client, liar: Liar) -> None:
    def lose_the_answer(message: Message) -> None:
        message.status, message.body = 500, b""

    liar.lie_to_client = lose_the_answer
    with pytest.raises(UnsettledError, match="again with the same id") as caught:
        client.append_many([event("u_1"), {"action": "!"}, event("u_2")])
    assert isinstance(caught.value, UnavailableError)
    liar.lie_to_client = lambda _: None
    outcomes = client.append_many(caught.value.unsettled)
    assert [isinstance(outcome, Receipt) and outcome.is_duplicate for outcome in outcomes] == [
        True,
        True,
    ]


def test_outcomes_before_an_unsettled_request_are_not_lost(client: Client, liar: Liar) -> None:
    answered: list[str] = []

    def lose_the_second(message: Message) -> None:
        if message.target.startswith("/v1/events"):
            answered.append(message.target)
            if len(answered) == 2:
                message.status, message.body = 500, b""

    liar.lie_to_client = lose_the_second
    with pytest.raises(UnsettledError) as caught:
        client.append_many(event(f"u_{number}") for number in range(10_002))
    assert len(caught.value.results) == 10_000
    assert all(isinstance(outcome, Receipt) for outcome in caught.value.results)
    assert _actors(caught.value) == ["u_10000", "u_10001"]


def test_a_policy_with_a_quorum_takes_no_head_without_it(
    running: Running, liar: Liar, open_client: OpenClient
) -> None:
    witness = CosignatureSigner.generate(
        "witness.example/w", algorithm=ED25519_COSIGNATURE, seed=bytes(32)
    )
    policy = running.policy.read_text().replace(
        "quorum none", f"witness w {witness.verifier}\nquorum w"
    )
    client = open_client(liar.url, running.token, policy=policy.encode())
    with pytest.raises(VerificationError, match="quorum"):
        client.checkpoint()
    # The service has no such policy, and says that its head is published; that is not enough.
    with pytest.raises(VerificationError, match="quorum"):
        client.append(event())
    assert "wait=witnessed" in liar.targets[-1]

    def not_yet(answer: Any) -> None:
        answer["witnessed"] = False

    liar.lie_to_client = about("/v1/events", not_yet)
    with pytest.raises(UnsettledError, match="witnesses"):
        client.append(event())


def serve(directory: Path) -> Service:
    return Service(directory, listen="127.0.0.1:0", flags=FLAGS)


def grow(directory: Path, token: str, actors: list[str]) -> None:
    """Serve a ledger for as long as it takes to append these events."""
    with (
        serve(directory) as service,
        LedgerClient(service.url, token, policy=directory / "policy") as ledger,
    ):
        ledger.append_many(map(event, actors), wait_witnessed=True)


def test_a_restored_backup_and_a_second_history_are_found_out(
    open_client: OpenClient, tmp_path: Path
) -> None:
    """The worst attacker: root on the ledger's host, with its signing key."""
    true, other = tmp_path / "true", tmp_path / "other"
    token = make_ledger(true, origin=ORIGIN)
    grow(true, token, ["u_1", "u_2"])
    shutil.copytree(true, other)
    grow(true, token, ["u_3", "u_4", "u_5"])
    state = tmp_path / "state"

    def connect(url: str) -> Client:
        return open_client(url, token, policy=true / "policy", state=state)

    def ask_all(client: Client) -> Iterator[VerificationError]:
        for ask in (
            lambda: client.append(event("u_6")),
            client.checkpoint,
            lambda: client.event(0),
            lambda: list(client.events()),
        ):
            with pytest.raises(
                VerificationError, match=r"rewritten.*; evidence saved in"
            ) as caught:
                ask()
            yield caught.value

    with serve(true) as service, connect(service.url) as client:
        kept = client.checkpoint()
    with serve(other) as service, connect(service.url) as client:
        for error in ask_all(client):
            assert error.evidence["accepted.note"] == kept.note.encode()
    # The client has shown its head, so the service takes no events; the attacker has it forget.
    (other / "hold.json").unlink()
    grow(other, token, [f"v_{number}" for number in range(6)])
    with serve(other) as service, connect(service.url) as client:
        for error in ask_all(client):
            folder = Path(str(error).rpartition("evidence saved in ")[2])
            assert folder.parent == tmp_path / "state.evidence"
            assert (folder / "accepted.note").read_bytes() == kept.note.encode()
            assert (folder / "offered.note").read_bytes() == error.evidence["offered.note"]
        assert client.latest is not None
        assert client.latest.note == kept.note
    with serve(true) as service, connect(service.url) as client:
        assert client.latest is not None
        assert client.latest.note == kept.note
        client.append(event("u_8"))


@pytest.mark.parametrize(("position", "length"), [(10**9, 1), (0, 10**9), (10**9, 10**9), (-5, -5)])
def test_a_place_beyond_the_query_costs_no_memory(position: int, length: int) -> None:
    problem = Problem(detail="unknown field", position=position, length=length)
    error = QueryMistakeError("actr:x", RejectedError(problem))
    assert len(error.message) < 100
