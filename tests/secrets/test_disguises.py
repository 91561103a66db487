"""Secrets in other forms of the same characters are found by the prefilter and by the walk."""

import json
from typing import Any

import pytest

from ledger_core.event.secrets import Hit, default_rules, find, mask
from tests.secrets.events import event_with


def _assert_found(context: dict[str, Any], rule: str) -> None:
    event = event_with(context=context)
    for ensure_ascii in (True, False):
        found = find(json.dumps(event, ensure_ascii=ensure_ascii).encode())
        assert [hit.rule for hit in found] == [rule]
    assert [hit.rule for hit in find(event)] == [rule]


@pytest.mark.parametrize(
    "gap", [" ", "-", "\u2011", "\u2013", "\u00a0", "\u202f", "\u2009", "\u3000"]
)
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
     "pa\u00adss\u2060word", "𝐩𝐚𝐬𝐬𝐰𝐨𝐫𝐝", "user＿password", "pass\ufe0fword",
     "pа\u0455\u0455w\u043erd", "p\u0430ssw\u03bfrd", "pa\u0301ssword", "p\xe1ssword", "ᴘᴀꜱꜱᴡᴏʀᴅ"],
)  # fmt: skip
def test_a_key_in_other_letters_or_with_invisible_characters_is_found(key: str) -> None:
    _assert_found({key: "x1y2"}, "password")
    _assert_found({"a": {"name": key, "value": "x1y2"}}, "password")
    _assert_found({"a": {"nam\u200be": key, "Name": "x", "v\u0430lue": "x1y2"}}, "password")
    _assert_found({"body": f'body={{"{key}": ["x1y2"]}}'}, "password")
    _assert_found({"body": json.dumps({key: "x1y2"})}, "password")


def test_other_letters_are_left_alone() -> None:
    for key in ("Straße", "名前", "pаsswоrd_länge", "п\u0430р\u0430д", "перо", "ｎａｍｅ", "ﬁeld"):
        event = event_with(context={key: "x1y2"})
        assert find(event) == ()
        assert default_rules().walk(event)[1] == ()
    hit = find(event_with(context={"ｏｔｐ": "x1y2"}))
    assert hit == (Hit("context.ｏｔｐ", "one-time-code"),)


TOKEN = "gh" + "p_" + "a1B2" * 9
INVISIBLE = (
    "\u200b\u200d\u2060\ufeff\u00ad\u3164\u180e\ufe0f\U000e0041\x01\x08\x1b\x7f\x85"
    "\u202e\u2065\u0301\u0336\u20e0\ufff0\uffff\ufdd0\U000e0fff\U0010ffff"
)


@pytest.mark.parametrize("char", INVISIBLE, ids=ascii)
@pytest.mark.parametrize("place", [1, 4, 20, len(TOKEN) - 1])
def test_a_token_with_an_invisible_character_inside_is_found(char: str, place: int) -> None:
    _assert_found({"note": f"it was {TOKEN[:place]}{char}{TOKEN[place:]}."}, "github-token")


@pytest.mark.parametrize("char", INVISIBLE, ids=ascii)
def test_letters_before_and_behind_invisible_characters_hide_no_token(char: str) -> None:
    """Without these characters the letters would be one word, in which no token begins."""
    hidden = f"letters{char}{char.join(TOKEN)}{char}letters"
    _assert_found({"note": hidden}, "github-token")
    _assert_found({"a": {hidden: 1}}, "github-token")
    _assert_found({"note": f"n{char}n{char}pm_{'a' * 36}{char}n"}, "npm-token")
    _assert_found({"note": f"n{char}41{char}11111111111111{char}n"}, "card-number")
    prose = f", {char}and{char} \u540d\u524d " * 40
    masked = mask(event_with(reason=f"caf\u00e9 x{char}{char.join(TOKEN)}{prose}"))["reason"]
    assert masked == f"caf\u00e9 x{char}masked.github-token{prose}"


def test_letters_in_the_same_word_are_no_token_without_an_invisible_character_there() -> None:
    for word in (f"letters{TOKEN}", "monkey-" + "0123456789abcdef" * 2, "n4111111111111111"):
        for text in (word, f"caf\u00e9 {word} na\u00efve", f"\u200b {word} \u200b"):
            assert find(event_with(context={"note": text})) == ()


@pytest.mark.parametrize("zero", [0x660, 0x966, 0xFF10, 0x1D7CE], ids=hex)
def test_a_card_number_is_found_in_other_digits(zero: int) -> None:
    digits = "".join(chr(zero + int(digit)) for digit in "4111111111111111")
    _assert_found({"note": f"card {digits}"}, "card-number")


@pytest.mark.parametrize("char", ["\u200b", "\x7f"], ids=ascii)
def test_other_secrets_with_invisible_characters_inside_are_found(char: str) -> None:
    _assert_found({"card": char.join("4111111111111111")}, "card-number")
    _assert_found({"url": f"/cb?access_to{char}ken=q7Zp2"}, "url-secret")
    _assert_found({"body": json.dumps({"a": char.join(TOKEN)})}, "github-token")
    _assert_found({"wide": "".join(chr(ord(c) + 0xFEE0) for c in TOKEN)}, "github-token")


@pytest.mark.parametrize("char", INVISIBLE, ids=ascii)
def test_in_a_long_text_the_secret_is_masked_with_its_invisible_characters(char: str) -> None:
    before, after = "caf\u00e9 \u212b\u3000said: ", f", {char}and{char} \u540d\u524d " * 40
    masked = mask(event_with(reason=f"{before}{char.join(TOKEN)}{after}"))["reason"]
    assert masked == f"{before}masked.github-token{after}"
    twice = mask(event_with(reason=f"{TOKEN}{after}{char.join(TOKEN)}{after}"))["reason"]
    assert twice == f"masked.github-token{after}masked.github-token{after}"


def test_invisible_characters_alone_are_no_secret() -> None:
    for text in (
        INVISIBLE,
        f"a{INVISIBLE}b" * 99,
        "\x1b[31mred\x1b[0m",
        "\u0645\u06cc\u200c\u062e",
    ):
        event = event_with(reason=text, context={"a": text})
        assert find(event) == find(json.dumps(event).encode()) == ()
        assert mask(event) == event
