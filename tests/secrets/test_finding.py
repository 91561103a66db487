"""Secrets are found, other values pass, and the prefilter misses nothing that the scan finds."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.event.model import LIMITS
from ledger_core.event.secrets import Hit, default_rules, find, mask, parse_rules
from ledger_core.event.secrets.luhn import is_card_number
from ledger_core.tlog.errors import MalformedError
from tests.secrets.events import event_with, rows

TEXTS = rows("texts.jsonl")
KEYS = rows("keys.jsonl")


def _found(event: dict[str, Any]) -> tuple[Hit, ...]:
    """The hits, which must be the same by each way to them, and none after masking."""
    walked = default_rules().walk(event)[1]
    assert find(json.dumps(event).encode()) == walked
    assert find(msgspec.json.encode(event)) == walked
    assert find(event) == walked
    assert find(mask(event)) == ()
    if walked:
        others = [msgspec.json.encode(event_with(context={"n": n})) for n in range(2)]
        assert not default_rules().are_clean([others[0], msgspec.json.encode(event), others[1]])
    return walked


@pytest.mark.parametrize("row", TEXTS, ids=lambda row: "".join(row["parts"])[:40])
def test_a_text_is_found_by_its_rule_or_passes(row: dict[str, Any]) -> None:
    text = "".join(row["parts"])
    hits = _found(event_with(context={"request": ["x", {"line": text}]}))
    assert hits == (() if row["rule"] is None else (Hit("context.request[1].line", hits[0].rule),))
    assert [hit.rule for hit in hits] == ([] if row["rule"] is None else [row["rule"]])


@pytest.mark.parametrize("row", TEXTS, ids=lambda row: "".join(row["parts"])[:40])
def test_a_text_is_found_in_a_longer_one_and_in_json_in_json(row: dict[str, Any]) -> None:
    text = "".join(row["parts"])
    inside = json.dumps({"a": json.dumps({"b": text})})
    rule = row["rule"]
    # A form or a JSON body is one only when it is the whole text.
    for around in (inside,) if row.get("whole") else (inside, f"tab\t{text}\nnext", f"({text})"):
        hits = _found(event_with(reason=around))
        assert [hit.rule for hit in hits][: rule is not None] == ([] if rule is None else [rule])


@pytest.mark.parametrize("row", KEYS, ids=lambda row: f"{row['key']}={row['value']}"[:40])
def test_a_value_is_secret_by_its_key_or_passes(row: dict[str, Any]) -> None:
    key, value, rule = row["key"], row["value"], row["rule"]
    expected = [] if rule is None else [rule]
    deep = _found(event_with(context={"a": [{"b": {key: value}}]}))
    assert [hit.rule for hit in deep] == expected
    assert [hit.path for hit in deep] == ([f"context.a[0].b.{key}"] if rule else [])
    pair = _found(event_with(context={"parameters": [{"name": key, "value": value}]}))
    assert [hit.rule for hit in pair] == expected
    beside = {"path": "/row/new_value", "before": value, "after": value}
    named = {"path": "/row/name", "after": key}
    row_of = _found(event_with(changes=[beside, named, {**beside, "path": "/value"}]))
    assert [hit.rule for hit in row_of] == expected * 2
    assert all(hit.path.startswith("changes[0].") for hit in row_of)
    change = _found(event_with(changes=[{"path": f"/user/{key}", "before": value, "after": value}]))
    assert [hit.path for hit in change] == (
        ["changes[0].before", "changes[0].after"] if rule else []
    )


def test_masks_are_objects_where_an_object_may_stand_and_texts_elsewhere() -> None:
    token = "gh" + "p_" + "a1B2" * 9
    event = event_with(
        actor={"id": "u_1", "credential": token},
        reason=f"used {token}",
        context={"password": "x", "nested": [token, 4111111111111111]},
        changes=[{"path": "/note", "before": None, "after": {"apiKey": "k"}}],
    )
    assert mask(event) == event_with(
        actor={"id": "u_1", "credential": f"masked.github-token.{default_rules().digest(token)}"},
        reason="masked.github-token",
        context={
            "password": {"masked": "password"},
            "nested": [{"masked": "github-token"}, {"masked": "card-number"}],
        },
        changes=[{"path": "/note", "before": None, "after": {"apiKey": {"masked": "api-key"}}}],
    )


def test_a_key_that_is_a_secret_is_masked_and_not_shown() -> None:
    token = "gh" + "p_" + "a1B2" * 9
    event = event_with(context={token: 1, f"{token}0": 2})
    assert _found(event) == (
        Hit("context.[key]", "github-token"),
        Hit("context.[key]", "github-token"),
    )
    assert mask(event)["context"] == {
        "masked.github-token.name": 1,
        "masked.github-token.name-": 2,
    }


def test_masking_leaves_a_clean_event_and_what_no_event_holds_as_they_are() -> None:
    clean = event_with(context={"a": 1})
    assert mask(clean) is clean
    odd = event_with(context={"when": {1, 2}, 3: "x", "password": "hunter2"})
    assert mask(odd)["context"] == {"when": {1, 2}, 3: "x", "password": {"masked": "password"}}
    bomb: list[Any] = []
    for _ in range(5_000):
        bomb = [bomb]
    assert mask(event_with(context={"bomb": bomb, "otp": "1"}))["context"]["otp"] == {
        "masked": "one-time-code"
    }


def test_a_lone_surrogate_stays_where_it_is_and_hides_nothing() -> None:
    event = {"source": {"user_agent": "\udcff"}, "context": {"\ud800": "\udcff", "password": "x"}}
    masked = mask(event)
    assert masked["source"] == event["source"]
    assert masked["context"] == {"\ud800": "\udcff", "password": {"masked": "password"}}
    assert find({"reason": f"\udcff Bearer {'a1B2' * 8}"}) == (Hit("reason", "bearer-header"),)


_secrets = st.sampled_from(["".join(row["parts"]) for row in TEXTS])
_words = st.text(max_size=12) | _secrets | st.sampled_from([row["key"] for row in KEYS])
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_words, _values, max_size=4), _words)
def test_the_look_at_the_bytes_misses_nothing_that_a_walk_finds(
    context: dict[str, Any], reason: str
) -> None:
    try:
        msgspec.json.encode([context, reason])
    except UnicodeEncodeError:
        return  # Lone surrogates never come so far.
    _found(event_with(context=context, reason=reason))


@pytest.mark.parametrize(
    "digits",
    [
        "4242424242424242", "5105105105105100", "2223003122003222", "378282246310005",
        "371449635398431", "6011000990139424", "30569309025904", "38520000023237",
        "3566002020360505", "6240008631401148", "2201382000000013", "6759649826438453",
    ],
)  # fmt: skip
def test_the_test_numbers_of_the_card_networks_are_cards(digits: str) -> None:
    assert is_card_number(digits)
    assert not is_card_number(digits[:-1] + str((int(digits[-1]) + 1) % 10))


def test_a_users_file_adds_names_and_patterns_and_turns_rules_off() -> None:
    rules = parse_rules(
        """
        off = ["card-number"]
        [[keys]]
        rule = "door-code"
        endings = ["door code"]
        [[patterns]]
        rule = "acme-token"
        pattern = '\\bacme_[0-9a-f]{8}\\b'
        [[patterns]]
        rule = "acme-id"
        pattern = '"A[0-9]{6}"'
        """
    )
    event = event_with(
        reason="acme_0123abcd",
        context={
            "frontDoorCode": 7,
            "card": "4242424242424242",
            "id": "A123456",
            "not": "A1234567",
        },
    )
    assert rules.find(json.dumps(event).encode()) == (
        Hit("reason", "acme-token"),
        Hit("context.frontDoorCode", "door-code"),
        Hit("context.id", "acme-id", is_id=True),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("off = ['nothing']", "no rule"),
        ("x = 1", "unknown field"),
        ("[[patterns]]\nrule = 'a'\npattern = '('", "RE2"),
        ("[[patterns]]\nrule = 'a'\npattern = '^a'", "no meaning"),
        ("[[patterns]]\nrule = 'a'\npattern = 'a\\\\z'", "no meaning"),
        ("[[patterns]]\nrule = 'a'\npattern = 'a*'", "empty text"),
        ("[[patterns]]\nrule = 'A B'\npattern = 'a'", "match"),
        ("[[keys]]\nrule = 'a'", "endings or names"),
        ("[[", "rules of secrets"),
    ],
)  # fmt: skip
def test_a_users_file_that_means_nothing_is_refused_with_its_reason(text: str, said: str) -> None:
    with pytest.raises(MalformedError, match=said):
        parse_rules(text.replace("\\\\", "\\"))


def test_a_class_in_a_users_pattern_may_hold_a_dollar_or_a_caret() -> None:
    rules = parse_rules("[[patterns]]\nrule = 'a'\npattern = '[^$]cost\\$[0-9]'")
    assert rules.find(event_with(reason="it cost$5")) == (Hit("reason", "a"),)


@pytest.mark.parametrize("key", ["trace_id", "traceId", "X-Request-ID", "span.id"])
def test_a_random_id_of_digits_alone_is_no_card_under_a_name_that_says_so(key: str) -> None:
    card = "4111111111111111"
    assert _found(event_with(context={key: card})) == ()
    assert _found(event_with(context={key: f"{card} {card}"})) != ()
    assert _found(event_with(context={"paid_with": card})) != ()


def test_headers_as_pairs_are_masked_and_lists_of_two_names_are_not() -> None:
    headers = [["Host", "example.com"], ["Cookie", "sid=1"], ["X-Api-Key", "k"]]
    assert mask(event_with(context={"headers": headers}))["context"]["headers"] == [
        ["Host", "example.com"],
        ["Cookie", {"masked": "cookie"}],
        ["X-Api-Key", {"masked": "api-key"}],
    ]
    assert _found(event_with(context={"headers": headers}))[0].path == "context.headers[1][1]"
    assert _found(event_with(context={"changed": ["password", "email"]})) == ()


def test_a_mask_names_a_rule_or_is_a_secret_like_any_other() -> None:
    rules = parse_rules("[[keys]]\nrule = 'door-code'\nnames = ['gate']")
    masked = rules.mask(event_with(context={"gate": 1}))
    assert masked["context"] == {"gate": {"masked": "door-code"}}
    assert rules.find(masked) == ()
    assert rules.find(event_with(context={"gate": {"masked": "1234"}})) != ()


PROSE = "The deployment of the billing service to the second region went on for an hour. " * 3


@pytest.mark.parametrize(
    "row",
    [row for row in TEXTS if row["rule"] and not row.get("whole")],
    ids=lambda row: row["rule"],
)
def test_in_a_long_text_only_the_secret_is_masked(row: dict[str, Any]) -> None:
    secret, rule = "".join(row["parts"]), row["rule"]
    event = event_with(reason=f"{PROSE}({secret})", context={"log": f"({secret}) {PROSE}"})
    masked = mask(event)
    assert {hit.rule for hit in _found(event)} == {rule}
    for text in (masked["reason"], masked["context"]["log"]):
        if isinstance(text, str):
            assert secret not in text
    assert masked["reason"] == f"masked.{rule}" or masked["reason"].startswith(PROSE)


def test_a_long_text_of_the_schema_that_masking_lengthens_stays_within_its_limit() -> None:
    cards = "4111111111111111 " * 20
    assert mask(event_with(reason=cards))["reason"] == "masked.card-number " * 20
    most = LIMITS["reason"].most
    message = (
        json.dumps({"did": "refund", "password": "hunter2", "x": "y" * most})[: most - 1] + "}"
    )
    masked = mask(event_with(reason=message))["reason"]
    assert masked.startswith('{"did": "refund", "password": "masked.password", "x": "yyy')
    assert len(masked) <= most
    assert mask(event_with(reason=f"{PROSE}{'a' * 40} ghp_{'a1B2' * 9} b"))["reason"] == (
        f"{PROSE}{'a' * 40} masked.github-token b"
    )


def test_a_long_json_text_with_one_password_keeps_what_happened() -> None:
    body = {"user": "jo", "password": "hunter2", "note": PROSE, "inner": json.dumps({"otp": 12345})}
    masked = mask(event_with(context={"body": json.dumps(body)}))["context"]["body"]
    assert json.loads(masked) == {
        **body,
        "password": {"masked": "password"},
        "inner": {"masked": "one-time-code"},
    }
    cut = f'POST {{"note": "{PROSE}", "password": "hunter2", "otp": 123, "x": "cut sho'
    masked = mask(event_with(context={"line": cut}))["context"]["line"]
    assert masked == cut.replace("hunter2", "masked.password").replace(
        "123", "masked.one-time-code"
    )
    assert mask(event_with(reason=cut))["reason"] == masked
    message = mask(event_with(reason=json.dumps(body)))["reason"]
    assert json.loads(message)["user"] == "jo"
    assert "hunter2" not in message
    key = "-----BEGIN PRIVATE " + "KEY-----\nMIIB" + "A" * 300
    assert mask(event_with(reason=PROSE + key))["reason"] == f"{PROSE}masked.pem-private-key"


@pytest.mark.parametrize(
    "text",
    ['\n {"password": ["hunter2"]}', '\ufeff{"db": {"password": {"a": "hunter2"}}}',
     'body={"password": ["hunter2"]}', 'body={"db": {"password": {"a": "hunter2"}}} and',
     '{"a": 1}\n{"password": ["hunter2"]}', '{"password": ["hunter2"]} and',
     "{'password': 'hunter2'}", "{'password': [\"hunter2\"]}",
     '{"password": {"masked": "hunter2"}} and',
     "{\"password\": \"it's hunter2\", \"cut", "{'password': 'a\\'hunter2', 'cut",
     r'body={"password": "a\"hunter2"}', r'body={\"password\": \"a\\\"hunter2\"}'],
)  # fmt: skip
def test_a_secret_in_json_with_other_text_around_it_is_masked_whole(text: str) -> None:
    for value in (text, f"{text} {PROSE}", f"{PROSE} {text}"):
        event = event_with(context={"line": value})
        assert [hit.rule for hit in _found(event)] == ["password"]
        assert "hunter2" not in json.dumps(mask(event))


@pytest.mark.parametrize(
    "text",
    ['body={"password": {"masked": "password"}, "otp": {}, "token": [ ]} and',
     "{'password': None, 'otp': ''} and", "the 'password' is: missing"],
)  # fmt: skip
def test_masks_and_empty_values_in_json_with_other_text_around_it_are_no_secrets(text: str) -> None:
    assert _found(event_with(context={"line": text})) == ()
