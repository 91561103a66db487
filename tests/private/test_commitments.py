"""Commitments: what they cover, where they stand, and that only their own values open them."""

import hashlib
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.event.commitments import (
    Opening,
    Private,
    PrivateEvent,
    PrivateReader,
    check_openings,
    commit_private,
    commitment_to,
    encode_salt,
    find_at,
    find_commitments,
    find_values,
    format_envelope,
    holds_private,
    replace_at,
)
from ledger_core.event.model import EventError

SALT = bytes(range(32))
ID = "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50"


def _event(**fields: Any) -> dict[str, Any]:
    return {"id": ID, "action": "a.b", "actor": {"id": "u_1"}, "outcome": "success", **fields}


def _reader() -> PrivateReader:
    return PrivateReader(lambda: ID, lambda: 0)


def test_a_marked_value_is_found_in_a_process_that_only_unpickled_it() -> None:
    marked = pickle.dumps({"context": {"name": Private("x", "u_1")}})
    program = (
        "import pickle, sys; from ledger_core.event.commitments import holds_private\n"
        "assert not holds_private({'context': {}})\n"
        "assert holds_private(pickle.load(sys.stdin.buffer))"
    )
    subprocess.run([sys.executable, "-c", program], input=marked, check=True)


def test_a_commitment_is_what_the_documentation_says() -> None:
    text = '["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8","/context/patient",{"a":1,"b":"é"}]'
    digest = hashlib.sha256(text.encode()).digest()
    value = {"b": "é", "a": 1}
    assert commitment_to(salt=SALT, path="/context/patient", value=value) == encode_salt(digest)


def test_marked_values_become_commitments_where_they_may_stand() -> None:
    event = _event(
        actor={"id": "u_1", "name": Private("Jo", "u_1")},
        reason=Private("asked by mail", "u_2"),
        context={"a/b": {"~": [1, Private({"name": "Jo"}, "u_1")]}, "plain": "x"},
        changes=[{"path": "/name", "before": Private("Jo", "u_1"), "after": None}],
    )
    assert holds_private(event)
    hidden, openings = commit_private(event, lambda: SALT)
    assert not holds_private(hidden)
    assert {opening.path for opening in openings} == {
        "/actor/name",
        "/reason",
        "/context/a~1b/~0/1",
        "/changes/0/before",
    }
    assert hidden["reason"].startswith("commitment.")
    assert hidden["context"]["a/b"]["~"][1].keys() == {"commitment"}
    read = _reader().read_object(hidden)
    found = {each.path: each.hash for each in find_commitments(json.loads(read.event_json))}
    assert found == {opening.path: opening.commitment for opening in openings}


@pytest.mark.parametrize(
    "fields",
    [
        {"action": Private("x", "u")},
        {"actor": {"id": Private("x", "u")}},
        {"source": {"ip": Private("203.0.113.9", "u")}},
        {"context": Private({}, "u")},
        {"context": {"a": Private("x", "")}},
        {"context": {"a": Private("x" * 16_384, "u")}},
        {"context": {"a": Private(float("nan"), "u")}},
        {"context": {"a": Private({1: 2}, "u")}},
        {"context": {"a": [Private(n, "u") for n in range(33)]}},
    ],
)
def test_nothing_private_stands_elsewhere_or_is_too_large(fields: dict[str, Any]) -> None:
    with pytest.raises(EventError):
        commit_private(_event(**fields), lambda: SALT)


def test_a_marked_value_and_an_opening_show_no_value() -> None:
    marked = Private("hunter2", "u_1")
    opening = Opening("/reason", "u_1", encode_salt(SALT), "hunter2")
    assert "hunter2" not in f"{marked!r} {marked} {opening!r} {opening}"
    assert opening.salt not in f"{opening!r}"


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(_json, _json, st.binary(min_size=32, max_size=32))
def test_only_the_value_the_salt_and_the_path_open_a_commitment(
    value: Any, other: Any, salt: bytes
) -> None:
    try:
        hidden, (opening,) = commit_private(
            _event(context={"a": Private(value, "u")}), lambda: salt
        )
        changed = Opening(opening.path, "u", opening.salt, other)
        is_same = changed.commitment == opening.commitment
    except EventError:
        return  # A lone surrogate.
    check_openings(hidden, [opening])
    if json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert is_same
    else:
        with pytest.raises(EventError):
            check_openings(hidden, [changed])
    flipped = bytes([salt[0] ^ 1, *salt[1:]])
    for wrong in (
        Opening(opening.path, "u", encode_salt(flipped), value),
        Opening("/context/b", "u", opening.salt, value),
    ):
        with pytest.raises(EventError):
            check_openings(hidden, [wrong])


def test_an_envelope_is_read_as_its_event_and_checked() -> None:
    hidden, openings = commit_private(_event(context={"a": Private("x", "u")}), lambda: SALT)
    plain = _reader().read_object(hidden)
    envelope = format_envelope(plain.event_json, openings)
    for read in (_reader().read(envelope), _reader().read_object(json.loads(envelope))):
        assert isinstance(read, PrivateEvent)
        assert read.event_json == plain.event_json
        assert read.openings == openings
    assert type(_reader().read(plain.event_json)) is type(plain)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda e: e | {"more": 1}, "private"),
        (lambda e: {"event": e["event"]}, "private"),
        (lambda e: e | {"private": [e["private"][0] | {"value": "y"}]}, "private"),
        (lambda e: e | {"private": e["private"] * 2}, "private"),
        (lambda e: e | {"private": [{"path": "/x"}]}, "private"),
        (lambda e: e | {"event": e["event"] | {"x": 1}}, "unknown-key"),
    ],
)
def test_an_envelope_that_does_not_fit_is_refused(change: Any, rule: str) -> None:
    hidden, openings = commit_private(_event(context={"a": Private("x", "u")}), lambda: SALT)
    envelope = json.loads(format_envelope(_reader().read_object(hidden).event_json, openings))
    with pytest.raises(EventError) as caught:
        _reader().read(json.dumps(change(envelope)).encode())
    assert caught.value.rule == rule


def test_a_repeated_key_in_an_envelope_is_refused() -> None:
    hidden, openings = commit_private(_event(context={"a": Private("x", "u")}), lambda: SALT)
    envelope = format_envelope(_reader().read_object(hidden).event_json, openings)
    with pytest.raises(EventError, match="twice"):
        _reader().read(envelope[:-1] + b',"private":[]}')


def test_stars_stand_for_keys_and_positions() -> None:
    event = {"targets": [{"id": "a", "name": "A"}, {"id": "b"}], "context": {"x/y": {"k": 1}}}
    assert list(find_values(event, "/targets/*/name")) == [("/targets/0/name", ("0",), "A")]
    assert list(find_values(event, "/context/*/k")) == [("/context/x~1y/k", ("x~1y",), 1)]
    assert list(find_values(event, "/nothing/here")) == []


def test_a_key_that_is_a_star_is_no_wildcard() -> None:
    """A secret must not stay because another key of the object was taken for its own."""
    event = {"context": {"a": {"k": "kept"}, "*": {"k": "secret"}, "b": {"*": 1}}}
    assert [found[0] for found in find_at(event, "/context/*/k")] == ["/context/*/k"]
    assert [found[0] for found in find_values(event, "/context/*/k")] == [
        "/context/a/k",
        "/context/*/k",
    ]
    commitment = "0" * 64
    replace_at(event, "/context/*/k", commitment)
    assert event["context"] == {
        "a": {"k": "kept"},
        "*": {"k": {"commitment": commitment}},
        "b": {"*": 1},
    }
    with pytest.raises(EventError, match="nothing stands here"):
        replace_at({"context": {"a": {"k": "kept"}}}, "/context/*/k", commitment)


def test_the_stars_of_a_subject_are_the_keys_of_its_value() -> None:
    event = {"context": {"a": {"of": "u_a"}, "*": {"of": "u_star"}}}
    found = [each[2] for each in find_values(event, "/context/*/of", stars=["*"])]
    assert found == ["u_star"]


@pytest.mark.parametrize("key", ["*", "a/b", "/", "~", "~1", "a~0b/~", "", "0"])
def test_a_commitment_is_found_and_opened_at_any_key(key: str) -> None:
    path = f"/context/{key.replace('~', '~0').replace('/', '~1')}/deep"
    opening = Opening(path, "u_1", encode_salt(bytes(32)), "Ada")
    event = {"context": {"other": 1, key: {"deep": {"commitment": opening.commitment}}}}
    assert [found.path for found in find_commitments(event)] == [path]
    check_openings(event, [opening])
    with pytest.raises(EventError):
        check_openings(event, [Opening(f"{path}/x", "u_1", encode_salt(bytes(32)), "Ada")])
