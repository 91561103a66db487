"""An id that looks like a secret stays an id: a keyed digest, and no mask that others have too."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ledger.service.data_dir import DirectoryPaths
from ledger_client import LedgerClient
from ledger_core.event.secrets import default_rules, find, mask
from tests.secrets.events import event_with
from tests.service.serving import Ledger, event, new_id, serving_new

CARD = "4111111111111111"
OTHER_CARD = "5500000000000004"
TOKEN = "gh" + "p_" + "a1B2" * 9
RULES = default_rules().keyed(b"k" * 32)


def digest(text: str, rule: str = "card-number") -> str:
    return f"masked.{rule}.{RULES.digest(text)}"


def test_ids_become_digests_that_are_the_same_for_the_same_value() -> None:
    masked = RULES.mask(
        event_with(
            actor={"id": CARD, "session": TOKEN, "on_behalf_of": {"id": OTHER_CARD}},
            targets=[{"type": "user", "id": CARD}],
            reason=CARD,
            context={"orderId": int(CARD), "order_ids": [CARD, "7"], "paid": CARD},
        )
    )
    free = {"masked": "card-number", "digest": RULES.digest(CARD)}
    assert masked["actor"] == {
        "id": digest(CARD),
        "session": digest(TOKEN, "github-token"),
        "on_behalf_of": {"id": digest(OTHER_CARD)},
    }
    assert masked["targets"] == [{"type": "user", "id": digest(CARD)}]
    assert masked["reason"] == "masked.card-number"
    assert masked["context"] == {
        "orderId": free,
        "order_ids": [free, "7"],
        "paid": {"masked": "card-number"},
    }
    assert digest(CARD) != digest(OTHER_CARD)
    assert RULES.keyed(b"other").digest(CARD) != RULES.digest(CARD)
    assert RULES.mask(masked) == masked
    # A digest is harmless below any key, and anything else in its place is not.
    assert not find({"context": {"password": free, "token": digest(CARD)}})
    assert find({"context": {"password": {"masked": "card-number", "digest": "real"}}})
    assert find({"context": {"password": {"masked": "real", "digest": RULES.digest(CARD)}}})


@pytest.mark.parametrize("key", ["id", "user_id", "X-Customer-ID", "orderID", "shop.id", "guid"])
def test_a_key_names_an_id(key: str) -> None:
    assert [hit.is_id for hit in find({"context": {key: CARD}})] == [True]


@pytest.mark.parametrize("key", ["paid", "grid", "valid", "identity", "ID card"])
def test_a_key_that_ends_alike_names_none(key: str) -> None:
    assert [hit.is_id for hit in find({"context": {key: CARD}})] == [False]


def test_many_random_ids_stay_as_many_different_ids() -> None:
    drawn = random.Random(1)
    ids = {f"4{drawn.randrange(10**15):015}" for _ in range(500)}
    masked = [mask(event_with(actor={"id": each}))["actor"]["id"] for each in ids]
    assert len(set(masked)) == len(ids)
    assert 20 < sum(text.startswith("masked.") for text in masked) < 80  # 1 of 10 has Luhn's digit.


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with serving_new(tmp_path) as ledger:
        yield ledger


def _rules_of(ledger: Ledger) -> Any:
    key = bytes.fromhex(DirectoryPaths(ledger.directory).digest_key.read_text())
    return default_rules().keyed(key)


def test_a_user_called_like_a_card_is_logged_under_a_digest(ledger: Ledger) -> None:
    first = event(actor={"id": CARD}, context={"order_id": int(OTHER_CARD)})
    answer = ledger.append(first)
    assert answer.status == 200
    (result,) = answer.json()["results"]
    assert {(each["path"], each["rule"]) for each in result["masked"]} == {
        ("actor.id", "card-number"),
        ("context.order_id", "card-number"),
    }
    ledger.append(event(actor={"id": OTHER_CARD}))
    rules = _rules_of(ledger)
    for card, count in ((CARD, 1), (OTHER_CARD, 1)):
        found = ledger.ask(f"/v1/events?q=actor:masked.card-number.{rules.digest(card)}")
        assert found.json()["total"] == count
    assert ledger.append(first).json()["results"][0]["duplicate"]


def test_what_is_refused_leaves_an_event_with_who_when_and_by_which_rule(ledger: Ledger) -> None:
    secret = {"password": "zxq-hunter-2"}
    ids = [new_id() for _ in range(3)]
    sent = [
        event(id=ids[0], actor={"id": CARD, "type": "user"}, context=secret),
        event(id=ids[1], actor={"id": "u_2"}, tenant="acme", context=secret),
        event(id=ids[2], actor={"id": "u_3"}, reason=f"used {TOKEN}"),
    ]
    assert ledger.append(*sent).status == 422
    assert ledger.append(event(), *sent).status == 207  # Again: the same events, once.
    found = ledger.ask("/v1/events?q=action:ledger.event.refused&order=oldest").json()["events"]
    refused = [each["event"] for each in found]
    assert [each.get("tenant") for each in refused] == [None, "acme"]
    assert [each["event"]["actor"] for each in found] == [
        {"type": "ledger.token", "id": "admin"}
    ] * 2
    context = refused[0]["context"]
    assert context["count"] == 2
    assert [(each["id"], each["rule"], each["field"]) for each in context["events"]] == [
        (ids[0], "password", "context.password"),
        (ids[2], "github-token", "reason"),
    ]
    assert [target["id"] for target in refused[0]["targets"]] == [
        f"masked.card-number.{_rules_of(ledger).digest(CARD)}",
        "u_3",
    ]
    for text in ("zxq-hunter-2", TOKEN, CARD):
        assert text not in json.dumps(found)
    assert (
        ledger.ask("/v1/events?q=action:ledger.event.refused", token="read acme").json()["total"]
        == 1
    )


def test_clients_make_the_digest_of_the_ledger_with_its_key(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def logged_id() -> str:
        policy = ledger.directory / "policy"
        with LedgerClient(ledger.url, ledger.tokens["admin"], policy=policy) as client:
            index = client.append(event(actor={"id": CARD})).index
            return str(client.event(index).event.actor.id)

    by_token = logged_id()
    assert by_token == logged_id()
    assert by_token.startswith("masked.card-number.")
    key_file = DirectoryPaths(ledger.directory).digest_key
    monkeypatch.setenv("LEDGER_DIGEST_KEY_FILE", str(key_file))
    assert logged_id() == f"masked.card-number.{_rules_of(ledger).digest(CARD)}" != by_token
    junk = tmp_path / "junk"
    junk.write_text("no key")
    monkeypatch.setenv("LEDGER_DIGEST_KEY_FILE", str(junk))
    with pytest.raises(ValueError, match="LEDGER_DIGEST_KEY_FILE"):
        LedgerClient(ledger.url, ledger.tokens["admin"])
