"""Appending: what is acknowledged is in the log, once, provably."""

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest

from ledger.service.clock import LogClock
from ledger.service.data_dir import DirectoryPaths
from ledger.store.erasable_values import PrivateStore
from ledger.store.tokens import AccessStore
from ledger_core.event.canonical import decode_event, encode_event, format_leaf, parse_leaf
from ledger_core.event.ids import format_uuid7
from ledger_core.event.reader import Reader
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, leaf_hash
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.proof import check_proof, check_range_proof, parse_proof, parse_range_proof
from ledger_core.tlog.verify import check_consistency
from tests.service.check_log import check_ledger
from tests.service.serving import JSON, MSGPACK, NDJSON, Answer, Ledger, event, new_id, serving


def no_fill() -> Any:
    raise AssertionError("the event has its id and its time")


READER = Reader(no_fill, no_fill)


def rebuilt_hash(sent: dict[str, Any], result: dict[str, Any]) -> bytes:
    """The leaf hash as a client knows it: from what it sent, and `received`."""
    read = READER.read(json.dumps(sent).encode())
    received = result["received"]
    hashed = leaf_hash(
        format_leaf(event_json=read.event_json, by=received["by"], received_time=received["time"])
    )
    assert base64.b64encode(hashed).decode() == result["leaf_hash"]
    return hashed


def results(answer: Answer, status: int = 200) -> list[dict[str, Any]]:
    """The results of an append."""
    assert answer.status == status, answer.body
    return list(answer.json()["results"])


def check_single(ledger: Ledger, sent: dict[str, Any], result: dict[str, Any]) -> VerifiedHead:
    """Verify the proof of one result."""
    proof = parse_proof(result["proof"])
    assert proof.leaf_index == result["index"]
    return check_proof(proof, leaf_hash=rebuilt_hash(sent, result), policy=ledger.policy)


@pytest.mark.parametrize("media", [JSON, NDJSON, MSGPACK])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_each_form_of_a_body_holds_the_same_events(ledger: Ledger, media: str, count: int) -> None:
    sent = [event(context={"n": number, "f": 0.5}) for number in range(count)]
    value: Any = sent[0] if count == 1 else {"events": sent}
    body = {
        JSON: json.dumps(value, indent=1).encode(),
        NDJSON: b"\r\n".join(json.dumps(each).encode() for each in sent),
        MSGPACK: msgpack.packb(value),
    }[media]
    answer = ledger.ask("/v1/events", method="POST", body=body, content_type=media)
    got = results(answer)
    first = got[0]["index"]
    assert [result["index"] for result in got] == list(range(first, first + count))
    log = check_ledger(ledger)
    for each, result in zip(sent, got, strict=True):
        assert leaf_hash(log.leaves[result["index"]]) == rebuilt_hash(each, result)
        assert result["received"]["by"] == "admin"
        assert result["duplicate"] is False


def test_white_space_and_escapes_around_a_batch_are_read_through(ledger: Ledger) -> None:
    inner = json.dumps(event(reason='"]}')).replace("a", "\\u0061")
    body = f' \n{{\t"events" :\r[ {inner} , {json.dumps(event())} ] \n}} '
    answer = ledger.ask("/v1/events", method="POST", body=body.encode(), content_type=JSON)
    assert len(results(answer)) == 2


def test_what_the_server_fills_in_it_says(ledger: Ledger) -> None:
    (result,) = results(ledger.append(event(id=None, time=None)))
    assert result["filled"] == ["id", "time"]
    found = ledger.ask(f"/v1/events/{result['id']}").json()
    assert found["index"] == result["index"]
    assert found["event"]["time"] == result["time"] <= result["received"]["time"]
    (result,) = results(ledger.append(event()))
    assert "filled" not in result
    assert "time" not in result


def test_a_single_event_is_proved_against_a_head_of_its_commit(ledger: Ledger) -> None:
    for _ in range(3):
        sent = event()
        (result,) = results(ledger.append(sent, query="?proof=1"))
        head = check_single(ledger, sent, result)
        assert head.checkpoint.tree_size > result["index"]


def test_a_batch_is_proved_by_one_range_proof_and_its_duplicates_alone(ledger: Ledger) -> None:
    known = event()
    ledger.append(known)
    fresh = [event() for _ in range(300)]
    sent = [*fresh[:100], known, *fresh[100:], fresh[7]]
    answer = ledger.append(*sent, query="?proof=1")
    got = results(answer)
    proof = parse_range_proof(answer.json()["range_proof"])
    new = [
        (each, result) for each, result in zip(sent, got, strict=True) if not result["duplicate"]
    ]
    assert len(new) == 300
    assert [result["index"] for _, result in new] == list(range(proof.start, proof.end))
    head = check_range_proof(
        proof, leaf_hashes=[rebuilt_hash(*pair) for pair in new], policy=ledger.policy
    )
    for position in (100, 301):
        assert got[position]["duplicate"] is True
        assert check_single(ledger, sent[position], got[position]).checkpoint == head.checkpoint
    assert all("proof" not in result for _, result in new)


def test_a_batch_of_one_and_a_batch_of_duplicates_are_proved(ledger: Ledger) -> None:
    sent = event()
    answer = ledger.append(sent, query="?proof=1", batch=True)
    (result,) = results(answer)
    proof = parse_range_proof(answer.json()["range_proof"])
    hashes = [rebuilt_hash(sent, result)]
    assert check_range_proof(proof, leaf_hashes=hashes, policy=ledger.policy)
    answer = ledger.append(sent, query="?proof=1", batch=True)
    (result,) = results(answer)
    assert "range_proof" not in answer.json()
    assert check_single(ledger, sent, result)


def test_refused_events_take_no_place_in_a_range(ledger: Ledger) -> None:
    sent = [event(), event(colour="red"), event()]
    answer = ledger.append(*sent, query="?proof=1")
    got = results(answer, 207)
    proof = parse_range_proof(answer.json()["range_proof"])
    assert proof.end - proof.start == 2
    hashes = [rebuilt_hash(sent[position], got[position]) for position in (0, 2)]
    check_range_proof(proof, leaf_hashes=hashes, policy=ledger.policy)


def test_a_client_gets_the_step_from_the_head_it_knows(ledger: Ledger) -> None:
    sent = event()
    (result,) = results(ledger.append(sent, query="?proof=1"))
    old = check_single(ledger, sent, result).checkpoint
    for query in ("?proof=1", "?proof=1&wait=witnessed"):
        sent = event()
        answer = ledger.append(sent, query=f"{query}&from_size={old.tree_size}")
        (result,) = results(answer)
        new = check_single(ledger, sent, result).checkpoint
        step = answer.json()["consistency"]
        assert (step["from"], step["to"]) == (old.tree_size, new.tree_size)
        check_consistency(
            old_size=old.tree_size,
            new_size=new.tree_size,
            proof=[base64.b64decode(each) for each in step["hashes"]],
            old_root=old.root_hash,
            new_root=new.root_hash,
        )
        old = new


def test_a_size_that_the_tree_never_had_is_refused_before_anything_is_kept(ledger: Ledger) -> None:
    sent = event()
    answer = ledger.append(sent, query="?proof=1&from_size=1000")
    assert (answer.status, answer.slug) == (400, "past-the-end")
    assert answer.json()["field"] == "from_size"
    assert ledger.ask(f"/v1/events/{sent['id']}").slug == "no-event"
    answer = ledger.append(event(), query="?from_size=0")
    assert answer.slug == "bad-parameter"


def test_the_empty_tree_is_the_beginning_of_every_tree(ledger: Ledger) -> None:
    sent = event()
    answer = ledger.append(sent, query="?proof=1&from_size=0")
    (result,) = results(answer)
    new = check_single(ledger, sent, result).checkpoint
    assert answer.json()["consistency"] == {"from": 0, "to": new.tree_size, "hashes": []}
    check_consistency(
        old_size=0,
        new_size=new.tree_size,
        proof=(),
        old_root=EMPTY_ROOT_HASH,
        new_root=new.root_hash,
    )


def test_waiting_for_witnesses_ends_with_a_published_head(ledger: Ledger) -> None:
    sent = event()
    answer = ledger.append(sent, query="?wait=witnessed&proof=1")
    (result,) = results(answer)
    assert answer.json()["witnessed"] is True
    size = check_single(ledger, sent, result).checkpoint.tree_size
    stored = ledger.ask(f"/v1/proofs/inclusion?index={result['index']}&size={size}")
    assert stored.text == result["proof"]
    assert "witnessed" not in ledger.append(event()).json()


def test_the_same_event_twice_is_there_once(ledger: Ledger) -> None:
    sent = event(context={"n": 1})
    (first,) = results(ledger.append(sent))
    (again,) = results(ledger.append(dict(reversed(sent.items())), token="append"))
    assert again == {**first, "duplicate": True}


def test_an_id_names_one_event_for_ever(ledger: Ledger) -> None:
    sent = event()
    (first,) = results(ledger.append(sent))
    answer = ledger.append({**sent, "reason": "another"})
    assert (answer.status, answer.slug) == (422, "all-refused")
    error = answer.json()["results"][0]["error"]
    assert (error["status"], error["type"], error["field"]) == (
        409,
        "/v1/problems#id-conflict",
        "id",
    )
    mixed = ledger.append({**sent, "outcome": "failure"}, event())
    assert ["error" in each for each in results(mixed, 207)] == [True, False]
    assert ledger.ask(f"/v1/events/{first['index']}").json()["event"] == sent


def test_an_event_whose_id_was_taken_first_is_logged_inside_a_conflict(ledger: Ledger) -> None:
    taken = event(action="page.viewed")
    real = event(id=taken["id"], actor={"id": "u_thief"}, action="iam.CreateAccessKey")
    deep: Any = 1
    for _ in range(7):
        deep = {"a": deep}
    large = event(id=taken["id"], reason="x" * 4096, context={"b": "y" * 55_000, "c": deep})
    ledger.append(taken, token="append")
    for _ in range(2):
        answer = ledger.append(real, large, token="append")
        assert answer.status == 422
    found = ledger.ask("/v1/events?q=action:ledger.event.conflicted").json()["events"]
    assert len(found) == 2
    by_actor = ledger.ask("/v1/events?q=target:u_thief").json()["events"]
    assert len(by_actor) == 1
    conflict = by_actor[0]["event"]
    assert by_actor[0]["received"]["by"] == "ledger"
    assert conflict["actor"] == {"type": "ledger.token", "id": "append"}
    assert conflict["context"]["refused"] == real
    assert ledger.ask(f"/v1/events/{conflict['context']['index']}").json()["event"] == taken
    assert found[0]["event"]["targets"][0]["id"] == large["id"]
    assert found[0]["event"]["context"]["refused"].startswith('{"action":"record.viewed","actor"')


def _id_of_a_digest(first: Any, data: bytes) -> str:
    received = datetime.fromisoformat(first["received"]["time"])
    digest = hashlib.sha256(data).digest()
    return format_uuid7(unix_ms=int(received.timestamp() * 1000), random=digest[:10])


def test_the_id_of_a_report_of_a_conflict_follows_from_nothing_that_a_client_knows(
    ledger: Ledger,
) -> None:
    taken = event()
    real = event(id=taken["id"], actor={"id": "u_foreseen"})
    (first,) = results(ledger.append(taken, token="append"))
    guessed = _id_of_a_digest(first, b"append\n" + decode_event(json.dumps(real).encode())[1])
    assert ledger.append(event(id=guessed), token="append").status == 200
    for _ in range(2):
        assert ledger.append(real, token="append").status == 422
    (found,) = ledger.ask("/v1/events?q=target:u_foreseen").json()["events"]
    assert found["event"]["context"]["refused"] == real
    assert found["event"]["id"] != guessed


def test_an_event_of_the_service_whose_id_was_taken_is_logged_under_another(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreseen = [new_id(), new_id()]
    honest = PrivateStore.own_id

    def predictable(self: PrivateStore, *parts: bytes, unix_ms: int) -> str:
        kinds = {b"conflicted": foreseen[0], b"refused": foreseen[1]}
        return kinds.get(parts[0]) or honest(self, *parts, unix_ms=unix_ms)

    monkeypatch.setattr(PrivateStore, "own_id", predictable)
    taken = event()
    assert ledger.append(taken, *(event(id=each) for each in foreseen)).status == 200
    conflicting = event(id=taken["id"], actor={"id": "u_taken"})
    secret = event(actor={"id": "u_taken"}, context={"password": "zxq-hunter-2"})
    for _ in range(2):
        assert ledger.append(conflicting, secret).status == 422
    found = ledger.ask("/v1/events?q=target:u_taken&order=oldest").json()["events"]
    assert sorted(each["event"]["action"] for each in found) == [
        "ledger.event.conflicted",
        "ledger.event.refused",
    ]


def test_an_event_of_the_outbox_whose_id_was_taken_is_logged_under_another(
    unserved: tuple[Path, dict[str, str]],
) -> None:
    directory, tokens = unserved
    waiting = event(action="ledger.token.created", targets=[{"id": "u_outbox"}])
    with serving(directory, tokens) as ledger:
        assert ledger.append(event(id=waiting["id"])).status == 200
    for _ in range(2):  # As after a crash, the second time.
        access = AccessStore.open(DirectoryPaths(directory).access)
        access.enqueue(json.dumps(waiting).encode())
        access.close()
        with serving(directory, tokens) as ledger:
            assert ledger.ask("/v1/events?q=target:u_outbox").json()["total"] == 1


DEEP = b"[" * 3000 + b"]" * 3000
UNFIT = {
    "NaN": b'{"context":{"n":NaN}}',
    "a lone surrogate": b'{"reason":"\\ud800 , ] }"}',
    "an abyss": b'{"context":{"n":%b}}' % DEEP,
    "bytes that are not UTF-8": b'{"reason":"\xff"}',
    "a word": b"nonsense",
}


@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT)
def test_an_event_that_is_no_json_fails_alone_in_a_batch(ledger: Ledger, unfit: bytes) -> None:
    sent = [json.dumps(event(reason='a "quoted", [text]')).encode() for _ in range(2)]
    body = b'{"events": [%b, %b ,%b]}' % (sent[0], unfit, sent[1])
    answer = ledger.ask("/v1/events", method="POST", body=body, content_type=JSON)
    assert ["error" in each for each in results(answer, 207)] == [False, True, False]


@pytest.mark.parametrize("inner", [b"{},", b",{}", b"{}}", b'{"a', b"{}],[{}", b"["])
def test_a_batch_that_is_no_array_is_refused_whole(ledger: Ledger, inner: bytes) -> None:
    answer = ledger.ask(
        "/v1/events", method="POST", body=b'{"events":[%b]}' % inner, content_type=JSON
    )
    assert answer.status in (400, 422)
    assert answer.slug in ("not-json", "unknown-key", "repeated-key", "too-deep")


def test_a_packed_event_that_is_an_abyss_fails_alone(ledger: Ledger) -> None:
    sent = [msgpack.packb(event()) for _ in range(3)]
    abyss = b"\x81\xa1n" + b"\x91" * 3000 + b"\x01"
    for unfit in (abyss, msgpack.packb(event(context={"n": float("nan")}))):
        body = b"\x81\xa6events\x94" + sent[0] + unfit + sent[1] + sent[2]
        answer = ledger.ask("/v1/events", method="POST", body=body, content_type=MSGPACK)
        assert answer.status == 207, answer.text
        assert ["error" in each for each in answer.json()["results"]] == [False, True, False, False]
        sent = [msgpack.packb(event()) for _ in range(3)]


def test_an_id_is_the_same_in_upper_case(ledger: Ledger) -> None:
    sent = event()
    (first,) = results(ledger.append(sent))
    (again,) = results(ledger.append({**sent, "id": str(sent["id"]).upper()}))
    assert (again["index"], again["duplicate"]) == (first["index"], True)
    assert ledger.ask(f"/v1/events/{str(sent['id']).upper()}").json()["index"] == first["index"]


def test_one_batch_may_hold_an_event_twice_but_no_id_for_two(ledger: Ledger) -> None:
    sent = event()
    got = results(ledger.append(sent, sent, {**sent, "reason": "another"}, sent), 207)
    assert [result.get("duplicate") for result in got] == [False, True, None, True]
    assert got[1] == got[3] == {**got[0], "duplicate": True}
    assert got[2]["error"]["type"] == "/v1/problems#id-conflict"


def test_a_repetition_without_a_time_is_the_same_event(ledger: Ledger) -> None:
    sent = event(time=None)
    (first,) = results(ledger.append(sent))
    (again,) = results(ledger.append(sent))
    assert again == {**first, "duplicate": True}
    (timed,) = results(ledger.append({**sent, "time": first["time"]}))
    assert timed["index"] == first["index"]
    conflict = ledger.append({**sent, "time": "2020-01-01T00:00:00Z"})
    assert conflict.json()["results"][0]["error"]["type"] == "/v1/problems#id-conflict"


def test_many_clients_at_once_get_one_index_each(ledger: Ledger) -> None:
    shared = [event() for _ in range(20)]

    def append(number: int) -> list[int]:
        batch = [event() for _ in range(number % 5)] + [shared[number % 20]]
        return [result["index"] for result in results(ledger.append(*batch, batch=True))]

    with ThreadPoolExecutor(16) as pool:
        indices = [index for got in pool.map(append, range(200)) for index in got]
    log = check_ledger(ledger)
    assert len(set(indices)) == 20 + sum(number % 5 for number in range(200))
    assert set(indices) | set(range(log.size - len(set(indices)))) == set(range(log.size))


def test_ten_thousand_events_fit_one_request(ledger: Ledger) -> None:
    sent = [event() for _ in range(10_000)]
    answer = ledger.append(*sent, query="?proof=1")
    hashes = [rebuilt_hash(*pair) for pair in zip(sent, results(answer), strict=True)]
    proof = parse_range_proof(answer.json()["range_proof"])
    check_range_proof(proof, leaf_hashes=hashes, policy=ledger.policy)


def test_the_clock_of_the_log_never_goes_back() -> None:
    times = iter([5_000, 3_000, 9_999, 1_000, 10_000])
    clock = LogClock(last="1970-01-01T00:00:00.000004Z", read_unix_ns=lambda: next(times))
    assert [clock.now() for _ in range(5)] == [5, 5, 9, 9, 10]
    assert LogClock(last="2970-01-01T00:00:00.000000Z", read_unix_ns=lambda: 1).now() > 10**15


def test_an_event_is_stored_in_its_canonical_form(ledger: Ledger) -> None:
    value = (
        '{"outcome":"success","context":{"\\u00e9":1.0,"a":[1e2,-0.0]},"action":"a",'
        f'"actor":{{"id":"u"}},"time":"2026-11-25T04:03:36+02:00","id":"{new_id()}",'
        '"source":{"ip":"::ffff:203.0.113.9"}}'
    )
    answer = ledger.ask("/v1/events", method="POST", body=value.encode(), content_type=JSON)
    (result,) = results(answer)
    leaf = ledger.ask(f"/v1/events/{result['index']}").json()["leaf"].encode()
    parsed = parse_leaf(leaf)
    assert encode_event(parsed.event) in leaf
    assert b'"context":{"a":[100,0],"\xc3\xa9":1}' in leaf
    assert b'"ip":"203.0.113.9"' in leaf
    assert b'"time":"2026-11-25T02:03:36.000000Z"' in leaf
