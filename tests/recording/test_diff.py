"""`diff` and `snapshot`: what changed, of mappings, dataclasses, Django models and SQLAlchemy."""

import array
import collections
import dataclasses
import datetime as dt
import enum
import functools
import json
import re
import subprocess
import sys
import uuid
import weakref
import zoneinfo
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from ledger_client import diff, snapshot
from ledger_core.event.canonical import decode_event_object

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
states = st.dictionaries(st.text(), values, max_size=5)


@given(states, states)
def test_whatever_the_states_are_the_changes_fit_an_event(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    changes = diff(before, after)
    decode_event_object(
        {"action": "a", "actor": {"id": "u"}, "outcome": "success", "changes": changes}
    )


@given(states)
def test_a_state_does_not_differ_from_itself(state: dict[str, Any]) -> None:
    assert diff(state, state) == []


def test_each_change_is_a_pointer_and_an_absent_value_is_absent() -> None:
    before = {"role": "member", "gone": None, "same": 1, "in": {"a/b": 1, "~": 2, "same": 3}}
    after = {"role": "admin", "new": None, "same": 1, "in": {"a/b": 2, "~": 2, "same": 3}}
    assert diff(before, after) == [
        {"path": "/role", "before": "member", "after": "admin"},
        {"path": "/gone", "before": None},
        {"path": "/in/a~1b", "before": 1, "after": 2},
        {"path": "/new", "after": None},
    ]


def test_what_is_equal_to_python_only_is_a_change() -> None:
    assert diff({"a": 1, "b": 0}, {"a": True, "b": 0.0}) == [
        {"path": "/a", "before": 1, "after": True},
        {"path": "/b", "before": 0, "after": 0.0},
    ]


def test_making_and_deleting_are_changes_from_and_to_nothing() -> None:
    assert diff(None, {"a": 1}) == [{"path": "/a", "after": 1}]
    assert diff({"a": 1}, None) == [{"path": "/a", "before": 1}]


def test_what_is_excluded_is_left_out() -> None:
    assert diff({"password": "a", "b": 1}, {"password": "b", "b": 2}, exclude=["password"]) == [
        {"path": "/b", "before": 1, "after": 2}
    ]


def test_many_changes_are_cut_and_the_last_says_how_many() -> None:
    changes = diff({}, {str(i): i for i in range(300)})
    assert len(changes) == 256
    assert changes[-1] == {"path": "", "after": {"changes_omitted": 45}}


class Color(enum.Enum):
    RED = "red"


class Opaque:
    def __repr__(self) -> str:
        return "password=hunter2"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "2026-01-01T00:00:00+00:00"),
        (dt.date(2026, 1, 1), "2026-01-01"),
        (dt.timedelta(seconds=1), "0:00:01"),
        (Color.RED, "red"),
        (b"raw", {"bytes": 3}),
        ({2, 1}, [1, 2]),
        ((1, "a"), [1, "a"]),
        (2**60, str(2**60)),
        (float("nan"), "nan"),
        ("a\0\ud800", "a\ufffd\ufffd"),
        (Opaque(), {"type": "tests.recording.test_diff.Opaque"}),
        ({1: {None: True}}, {"1": {"None": True}}),
    ],
)
def test_values_of_other_types_are_shown_without_asking_them_what_they_print(
    value: object, shown: object
) -> None:
    assert snapshot({"value": value}) == {"value": shown}


def test_an_integer_too_long_to_print_is_shown_in_hex() -> None:
    assert snapshot({"value": 10**5000}) == {"value": hex(10**5000)}


@dataclasses.dataclass
class User:
    name: str
    role: str
    tags: list[str]


def test_a_dataclass() -> None:
    user = User("Jo", "member", ["a"])
    before = snapshot(user)
    user.role = "admin"
    user.tags.append("b")
    assert diff(before, user) == [
        {"path": "/role", "before": "member", "after": "admin"},
        {"path": "/tags", "before": ["a"], "after": ["a", "b"]},
    ]


def test_a_django_model() -> None:
    program = [sys.executable, "-m", "tests.recording.django_states"]
    output = subprocess.run(
        program, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[2]
    ).stdout
    made = json.loads(output)
    assert made["diff"] == [
        {"path": "/title", "before": "old", "after": "new"},
        {"path": "/due", "before": None, "after": "2026-01-01"},
    ]
    assert made["deferred"] == {"id": 1, "title": "old"}


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    limit: Mapped[int]


def test_a_sqlalchemy_instance() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        account = Account(id=1, owner="jo", limit=5)
        session.add(account)
        session.flush()
        before = snapshot(account)
        account.limit = 6
        assert diff(before, account) == [{"path": "/limit", "before": 5, "after": 6}]
        session.commit()
        # Everything is expired now, and nothing is loaded to be shown.
        assert snapshot(account) == {}
    engine.dispose()


def test_what_has_expired_or_is_deferred_is_unknown_and_not_absent() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        account = Account(id=1, owner="jo", limit=5)
        assert diff(None, account) == [
            {"path": "/id", "after": 1},
            {"path": "/owner", "after": "jo"},
            {"path": "/limit", "after": 5},
        ]
        session.add(account)
        session.commit()
        session.refresh(account)
        before = snapshot(account)
        account.limit = 6
        session.commit()
        unknown = {"path": "", "after": {"not_loaded": ["id", "limit", "owner"]}}
        assert diff(before, account) == [unknown]
        assert diff(before, account, exclude=["id", "owner"]) == [
            {"path": "", "after": {"not_loaded": ["limit"]}}
        ]
        session.refresh(account, ["limit"])
        assert diff(before, account) == [
            {"path": "/limit", "before": 5, "after": 6},
            {"path": "", "after": {"not_loaded": ["id", "owner"]}},
        ]
        session.refresh(account)
        assert diff(before, account) == [{"path": "/limit", "before": 5, "after": 6}]
    engine.dispose()


NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def shown(value: object) -> str:
    """Return the repr without addresses, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


class Money:
    __slots__ = ("amount", "currency")

    def __init__(self, amount: str, currency: str = "EUR") -> None:
        self.amount = Decimal(amount)
        self.currency = currency


@dataclasses.dataclass
class Address:
    city: str


@attrs.define
class Car:
    plate: str


class Card(pydantic.BaseModel):
    pin: pydantic.SecretStr


class Leaf(msgspec.Struct):
    name: str


def nested(levels: int, inmost: object) -> object:
    return inmost if not levels else [nested(levels - 1, inmost)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"abc", b"abd"),
        (bytearray(b"abc"), bytearray(b"abd")),
        (Money("1"), Money("2")),
        (Money("1"), Money("1", "USD")),
        ([Money("1")], [Money("2")]),
        (Address("Rome"), Address("Oslo")),
        ([Address("Rome")], [Address("Oslo")]),
        (Car("A 1"), Car("A 2")),
        (Card(pin=pydantic.SecretStr("1")), Card(pin=pydantic.SecretStr("2"))),
        (Leaf("a"), Leaf("b")),
        (np.int64(1), np.int64(2)),
        (np.array([1, 2]), np.array([1, 3])),
        (np.float32(0.5), 1),
        ({(1, 2): "a"}, {(1, 3): "a"}),
        ({(1, 2): "a", (1, 3): "b"}, {(1, 2): "a", (1, 3): "c"}),
        (nested(9, 1), nested(9, 2)),
        (nested(40, 1), nested(40, 2)),
        ({"a": nested(9, 1)}, {"a": nested(9, 2)}),
        ([1], [True]),
        ([0], [0.0]),
        ("a\0", "a\ufffd"),
        (Decimal("1.10"), Decimal("1.01")),
        (Decimal("NaN"), Decimal("Infinity")),
        (NOON.replace(tzinfo=None), NOON),
        (dt.date(2026, 1, 1), NOON.replace(tzinfo=None)),
        (range(2), range(3)),
        (1j, 2j),
        (collections.deque([1]), collections.deque([2])),
        (array.array("i", [1]), array.array("i", [2])),
        (dt.UTC, dt.timezone(dt.timedelta(hours=1))),
        (zoneinfo.ZoneInfo("UTC"), zoneinfo.ZoneInfo("Europe/Berlin")),
        (re.compile("a"), re.compile("b")),
        (slice(1), slice(2)),
        (ValueError("a"), ValueError("b")),
        (functools.partial(int, "1"), functools.partial(int, "2")),
        (int, str),
        (len, max),
    ],
    ids=shown,
)
def test_values_that_differ_are_a_change_and_are_shown_by_forms_that_differ(
    old: object, new: object
) -> None:
    state: dict[str, object] = {"value": old}
    before = snapshot(state)
    state["value"] = new
    changes = diff(before, state)
    assert changes
    for change in changes:
        # As JSON: to Python, 1 == True.
        assert json.dumps(change.get("before")) != json.dumps(change.get("after"))
    assert diff(before, {"value": old}) == []
    decode_event_object(
        {"action": "a", "actor": {"id": "u"}, "outcome": "success", "changes": changes}
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Decimal("1.0"), Decimal("1.00")),
        (Decimal("-0.0"), Decimal(0)),
        (Decimal(100), Decimal("1E+2")),
        (Money("1.0"), Money("1.00")),
        (0.0, -0.0),
        (float("nan"), float("nan")),
        (
            NOON,
            NOON.astimezone(dt.timezone(dt.timedelta(hours=1))),
        ),
        ([Decimal("1.0")], (Decimal("1.00"),)),
        ({1, 2}, {2, 1}),
        (np.int64(5), 5),
        (np.array([1.5]), [1.5]),
        (Color.RED, "red"),
    ],
    ids=shown,
)
def test_values_that_are_equal_are_no_change(old: object, new: object) -> None:
    assert diff({"value": old}, {"value": new}) == []


def test_members_of_nested_objects_are_compared_one_by_one() -> None:
    assert diff({"home": Address("Rome")}, {"home": Address("Oslo")}) == [
        {"path": "/home/city", "before": "Rome", "after": "Oslo"}
    ]


def test_what_looks_the_same_has_a_hash_and_what_an_object_holds_is_not_shown() -> None:
    (change,) = diff({"value": b"abc"}, {"value": b"abd"})
    assert change["before"]["bytes"] == change["after"]["bytes"] == 3
    assert change["before"]["hash"] != change["after"]["hash"]
    (change,) = diff({"value": Money("17.5")}, {"value": Money("18.5")})
    assert change["before"].keys() == {"type", "hash"}
    assert "7.5" not in str(change["before"]["type"])


def test_a_snapshot_that_was_json_in_between_is_compared_by_what_it_shows() -> None:
    state = {
        "price": Decimal("1.50"),
        "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        "raw": b"abc",
        "in": [{"id": uuid.UUID(int=1), "tags": {"a", "b"}}],
        "money": Money("1"),
        "big": 2**60,
    }
    assert diff(json.loads(json.dumps(snapshot(state))), state) == []


def test_keys_of_the_same_text_are_both_kept() -> None:
    assert snapshot({"value": {1: "a", "1": "b", (1, "x"): "c"}}) == {
        "value": {"1 (int)": "a", "1": "b", '[1,"x"]': "c"}
    }
    assert diff({1: "a", "1": "b"}, {1: "a", "1": "c"}) == [
        {"path": "/1", "before": "b", "after": "c"}
    ]


def test_values_inside_themselves_and_in_many_places_are_copied_once() -> None:
    inside: list[object] = []
    inside.append(inside)
    wide: object = 1
    for _ in range(60):
        wide = [wide, wide]
    assert diff({"a": inside}, {"a": [*inside, 1]})
    assert diff({"a": wide}, {"a": wide}) == []


def test_of_any_other_object_nothing_is_known() -> None:
    for value in (Opaque(), 5, "text", User, Account):
        with pytest.raises(TypeError, match="no state that is known"):
            diff(None, value)


class Slotted:
    __slots__ = ("name",)

    @property
    def __dict__(self) -> Any:  # type: ignore[override] # as a proxy has it
        return None


class Unbound:
    """A proxy outside its context, as Werkzeug has them."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Failing:
    __slots__ = ("other",)

    def __init__(self, other: int) -> None:
        self.other = other

    @property
    def __dict__(self) -> Any:  # type: ignore[override] # as a proxy has it
        raise ReferenceError


@dataclasses.dataclass
class Detached:
    city: str

    def __getattribute__(self, name: str) -> Any:
        if name == "city":
            raise RuntimeError("detached")
        return super().__getattribute__(name)


def test_an_object_whose_attributes_raise_is_one_of_unknown_class() -> None:
    gone: Any = weakref.proxy(Address("Rome"))  # Nothing holds the address.
    for value in (Slotted(), Unbound(), Failing(1), Detached("Rome"), gone):
        state = {"value": value, "in": [value, 1]}
        shown = snapshot(state)
        assert shown["value"].keys() == {"type"}
        assert shown["in"] == [shown["value"], 1]
        assert diff(state, state) == []
        assert diff(state, {**state, "in": [value, 2]})[0]["path"] == "/in"
    assert diff({"value": Failing(1)}, {"value": Failing(2)})
    with pytest.raises(TypeError, match="no state that is known"):
        snapshot(Detached("Rome"))


@dataclasses.dataclass
class Setting:
    name: str
    value: str


@dataclasses.dataclass
class ApiKey:
    value: str
    owner: str = "jo"


@pytest.mark.parametrize("name", ["api_key", "SMTP-Password", "stripe.secret_key"])
@pytest.mark.parametrize("as_mapping", [False, True])
def test_a_value_beside_the_name_of_a_secret_is_masked(name: str, as_mapping: bool) -> None:
    before, after = Setting(name, "s3cret"), Setting(name, "s3cret too")
    states = map(dataclasses.asdict, (before, after)) if as_mapping else (before, after)
    (change,) = diff(*states)
    assert change["path"] == "/value"
    assert change["before"] == change["after"]
    assert change["after"].keys() == {"masked"}
    made = {change["path"]: change for change in diff(None, after)}
    assert made["/value"].keys() == {"path", "after"}
    assert "s3cret" not in str(made)
    (nested,) = diff(
        {"smtp": {"key": name, "old_value": 1}}, {"smtp": {"key": name, "old_value": 2}}
    )
    assert nested == {
        "path": "/smtp/old_value",
        "before": change["after"],
        "after": change["after"],
    }


def test_a_value_of_a_class_of_secrets_is_masked() -> None:
    key = ApiKey("s3cret")
    before = snapshot(key)
    key.value = "s3cret too"
    (change,) = diff(before, key)
    assert change == {
        "path": "/value",
        "before": {"masked": "api-key"},
        "after": {"masked": "api-key"},
    }


def test_a_value_beside_another_name_is_shown() -> None:
    assert diff(Setting("theme", "dark"), Setting("theme", "light")) == [
        {"path": "/value", "before": "dark", "after": "light"}
    ]
    # No secret: an empty one, and yes or no.
    assert diff({"name": "api_key", "value": ""}, {"name": "api_key", "value": True}) == [
        {"path": "/value", "before": "", "after": True}
    ]
