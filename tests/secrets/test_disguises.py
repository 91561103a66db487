"""Secrets in other forms of the same characters are found by the prefilter and by the walk."""

import json
from typing import Any

import pytest

from ledger_core.event.secrets import Hit, default_rules, find
from tests.secrets.events import event_with


def _assert_found(context: dict[str, Any], rule: str) -> None:
    event = event_with(context=context)
    for ensure_ascii in (True, False):
        found = find(json.dumps(event, ensure_ascii=ensure_ascii).encode())
        assert [hit.rule for hit in found] == [rule]
    assert [hit.rule for hit in find(event)] == [rule]


@pytest.mark.parametrize("gap", [" ", "-", "\u00a0", "\u202f", "\u2009", "\u3000"])
def test_a_card_number_is_found_whatever_blank_is_between_its_groups(gap: str) -> None:
    _assert_found({"note": gap.join(["paid 4111", "1111", "1111", "1111"])}, "card-number")
    _assert_found({"note": gap.join(["3782", "822463", "10005"])}, "card-number")
    assert find(event_with(context={"note": gap.join(["4111", "1111", "1111", "1112"])})) == ()


@pytest.mark.parametrize(
    "url",
    [
        "/cb?access_token%3Dq7Zp2", "/cb?access_token%3dq7Zp2", "/cb?a=1&token%253Dq7Zp2",
        "/go?to=https%3A%2F%2Fhost%2F%3Fa%3D1%26access_token%3Dq7Zp2",
        "/go?to=%2F%3Ftoken%3D***%26api_key%3Dq7Zp2",
    ],
)  # fmt: skip
def test_a_percent_encoded_parameter_is_found(url: str) -> None:
    _assert_found({"url": url}, "url-secret")


@pytest.mark.parametrize(
    "url",
    ["/go?to=%2F%3Ftoken%3D***%26page%3D2", "/go?to=%2F%3Fnontoken%3Dq7Zp2", "/a?token%3D***"],
)
def test_a_percent_encoded_parameter_that_is_masked_or_no_secret_is_left_alone(url: str) -> None:
    assert find(event_with(context={"url": url})) == ()


@pytest.mark.parametrize(
    "key",
    ["ｐａｓｓｗｏｒｄ", "ＰＡＳＳＷＯＲＤ", "pass\u200bword", "\ufeffpassword",
     "pa\u00adss\u2060word", "𝐩𝐚𝐬𝐬𝐰𝐨𝐫𝐝", "user＿password", "pass\ufe0fword"],
)  # fmt: skip
def test_a_key_in_other_letters_or_with_invisible_characters_is_found(key: str) -> None:
    _assert_found({key: "x1y2"}, "password")
    _assert_found({"a": {"name": key, "value": "x1y2"}}, "password")
    _assert_found({"body": json.dumps({key: "x1y2"})}, "password")


def test_other_letters_are_left_alone() -> None:
    for key in ("Straße", "名前", "pаsswоrd_länge", "ｎａｍｅ", "ﬁeld"):
        event = event_with(context={key: "x1y2"})
        assert find(event) == ()
        assert default_rules().walk(event)[1] == ()
    hit = find(event_with(context={"ｏｔｐ": "x1y2"}))
    assert hit == (Hit("context.ｏｔｐ", "one-time-code"),)
