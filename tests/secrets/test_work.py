"""The work of a scan is linear in the text, whatever is nested in it, and has a bound."""

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from ledger_core.event.secrets import Hit, default_rules, find, mask
from ledger_core.event.secrets.walk import TEXT_DEPTH_MAX, WORK_MAX, Work
from tests.secrets.events import event_with

TOKEN = "gh" + "p_" + "a1B2" * 9


def _nested(wrap: Callable[[Any], Any], depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def _in_escaped_quotes(text: str) -> str:
    """JSON text of one more level, whose quotes grow by five characters and do not double."""
    escaped = text.replace("\\", r"\u005c").replace('"', r"\u0022")
    return f'["{escaped}"]'


def _deep_escapes(chars: int) -> str:
    text = '["password"]'
    while len(text) < chars:
        text = _in_escaped_quotes(text)
    return text


KINDS: dict[str, Callable[[int], str]] = {
    "masks under nested secret keys": lambda n: json.dumps(
        _nested(lambda inner: {"password": inner}, 60, ["***"] * (n // 7))
    ),
    "empty texts under nested secret keys": lambda n: json.dumps(
        _nested(lambda inner: {"a": 1, "token": inner}, 50, [""] * (n // 4))
    ),
    "nested pairs": lambda n: json.dumps(
        _nested(lambda inner: {"name": "", "value": inner, "otp": ""}, 50, [None] * (n // 6))
    ),
    "nested pairs of secrets": lambda n: json.dumps(
        _nested(lambda inner: {"key": "password", "values": [inner]}, 20, [None] * (n // 6))
    ),
    "nested arrays": lambda n: json.dumps([_nested(lambda inner: [inner], 30, "otp")] * (n // 65)),
    "deep brackets": lambda n: "[" * (n // 2) + '"password"' + "]" * (n // 2),
    "JSON in text in JSON": lambda n: json.dumps(
        _nested(lambda inner: json.dumps({"otp": inner}), 4, "***" * (n // 3))
    ),
    "JSON in text, its escapes escaped": _deep_escapes,
    "many JSON texts": lambda n: json.dumps([json.dumps({"otp": None})] * (n // 19)),
    "escapes of escapes": lambda n: json.dumps(["\\" + "u005c" * (n // 5) + "otp"]),
    "backslashes": lambda n: json.dumps(["\\" * (n // 2), {"otp": ""}]),
    "secret keys": lambda n: json.dumps({f"{TOKEN}{at:05}": at for at in range(n // 55)}),
    "keys that are taken": lambda n: json.dumps(
        {f"masked.github-token.name-{at}": at for at in range(2, n // 70)}
        | {f"{TOKEN}{at:05}": at for at in range(n // 110)}
    ),
    "card-like digits": lambda n: "4111111111111112 " * (n // 17),
    "digits and hyphens": lambda n: "4111-1111-" * (n // 10) + "a",
    "one run of digits": lambda n: "4" * n + "a",
    "harmless URLs": lambda n: "http://u:***@h " * (n // 15),
    "URLs without an end": lambda n: "http://a:" * (n // 9),
    "harmless headers": lambda n: "bearer abcdefghijklmnopqrstuv " * (n // 30),
    "a long prefix": lambda n: f"bearer {'a' * n}",
    "members in other text": lambda n: 'x "otp": null, ' * (n // 15),
    "members with objects": lambda n: 'x "otp": {  ' * (n // 13),
    "objects without an end": lambda n: 'x "otp": {' + " " * n,
    "members with escaped quotes": lambda n: 'x "otp": "***' + r"\"" * (n // 2),
    "members in Python's notation": lambda n: "x 'otp': '', " * (n // 13),
    "many names and values in one object": lambda n: json.dumps(
        {f"name{chr(0x200B + at)}": "otp" for at in range(4)}
        | {"name" + "\u200b" * at: "otp" for at in range(int((n // 6) ** 0.5))}
        | {"value" + "\u200b" * at: "" for at in range(int((n // 6) ** 0.5))},
        ensure_ascii=False,
    ),
    "letters before invisible characters": lambda n: f"x\u200b{'4' * 16}y" * (n // 20),
    "quotes": lambda n: '"otp"' * (n // 5),
    "blanks after names": lambda n: ('"otp"' + " " * 500) * (n // 505),
    "pairs in lists": lambda n: json.dumps([["otp", ""]] * (n // 12)),
    "parameters": lambda n: "?token=***" * (n // 10),
    "encoded parameters": lambda n: "%3Ftoken%3D***%26" * (n // 17),
    "names in full width": lambda n: json.dumps({f"ｏｔｐ{at}": "" for at in range(n // 12)}),
    "invisible characters": lambda n: json.dumps(
        {"o" + "\u200b" * n + "tp": ""}, ensure_ascii=False
    ),
    "a token between invisible characters": lambda n: "\u200b".join(f"{TOKEN} " * (n // 80)),
    "control characters": lambda n: "a\x01" * (n // 2),
    "combining marks": lambda n: json.dumps(
        {"ｏ" + "\u0301\u0323" * (n // 2): ""}, ensure_ascii=False
    ),
    "cards between wide blanks": lambda n: (
        "4111\u00a01111\u00a01111\u00a01112 was declined, " * (n // 34)
    ),
    "asterisks": lambda n: json.dumps({"password": "*" * n + "a"}),
}


def _calls(event: dict[str, Any]) -> int:
    """Count the calls of functions, Python's and C's, that masking an event takes."""
    calls = 0

    def count(_frame: FrameType, kind: str, _argument: object) -> None:
        nonlocal calls
        calls += kind in ("call", "c_call")

    sys.setprofile(count)
    try:
        mask(event)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("place", ["reason", "context"])
@pytest.mark.parametrize("kind", KINDS)
def test_twice_the_text_is_at_most_2_3_times_the_work(kind: str, place: str) -> None:
    done, calls = [], []
    for chars in (8_000, 16_000):
        text = KINDS[kind](chars)
        event = event_with(**{place: text if place == "reason" else {"body": text}})
        work = Work()
        default_rules().walk(event, work)
        done.append(work.done / len(text))
        calls.append(_calls(event) / len(text))
        assert work.done <= 16 * len(text) + 1_000
    assert done[1] <= 1.15 * done[0]
    assert calls[1] <= 1.15 * calls[0]
    assert calls[1] <= 14


def test_an_event_of_64_kb_without_json_in_its_texts_never_meets_the_limit() -> None:
    for context in ({"a": [1] * 32_000}, {"b": {f"{at:x}": "" for at in range(7_000)}}):
        work = Work()
        event = event_with(context={**context, "password": "x"})
        assert default_rules().walk(event, work)[1] == (Hit("context.password", "password"),)
        assert work.done < WORK_MAX / 2


def _levels(count: int, inner: Any) -> str:
    return str(_nested(lambda value: json.dumps({"a": value}), count, inner))


def test_a_text_with_too_many_levels_of_json_is_masked_whole_and_the_rule_names_the_limit() -> None:
    deepest = _levels(TEXT_DEPTH_MAX, {"password": "x"})
    assert find(event_with(reason=deepest)) == (Hit("reason", "password"),)
    event = event_with(reason=_levels(TEXT_DEPTH_MAX + 1, {"password": "x"}), context={"a": "b"})
    assert find(event) == (Hit("reason", "scan-limit"),)
    assert mask(event) == event_with(reason="masked.scan-limit", context={"a": "b"})


@pytest.mark.parametrize("depth", [65, 2_000, 30_000])
def test_json_in_a_text_that_nests_too_deep_hides_nothing(depth: int) -> None:
    text = '{"a":' * depth + '{"password":"x"}' + "}" * depth
    assert find(event_with(context={"body": text})) == (Hit("context.body", "scan-limit"),)
    assert find(event_with(context={"body": "[" * depth})) == ()


def test_when_the_work_is_used_up_texts_that_need_more_are_masked_and_all_others_stay() -> None:
    heavy = json.dumps(["otp", *[1] * 60_000])
    event = event_with(
        context={"a": heavy, "b": heavy, "c": heavy, "d": heavy, "e": '{"otp":1}', "f": "text"}
    )
    masked = mask(event)["context"]
    assert masked["a"] == heavy
    assert masked["d"] == masked["e"] == {"masked": "scan-limit"}
    assert masked["f"] == "text"
    assert find(event_with(reason="otp", context={"e": '{"otp":1}'})) == (
        Hit("context.e", "one-time-code"),
    )


def test_an_escape_in_the_json_of_a_text_hides_no_key() -> None:
    body = r'{"\u0070assword":"x"}'
    event = event_with(context={"body": body})
    assert find(json.dumps(event).encode()) == find(event) == (Hit("context.body", "password"),)


def test_a_masked_key_replaces_no_other() -> None:
    event = event_with(context={TOKEN: 1, "masked.github-token.name": 2, f"{TOKEN}0": 3})
    assert mask(event)["context"] == {
        "masked.github-token.name-": 1,
        "masked.github-token.name": 2,
        "masked.github-token.name-2": 3,
    }
