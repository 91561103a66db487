"""CSV of events: read back it is what the events say, and no spreadsheet runs any of it."""

import csv
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.event.canonical import format_leaf
from ledger_core.event.csv import (
    COLUMNS,
    _is_risky,
    _may_be_formula,
    _plain_leaf,
    format_header,
    format_rows,
    read_row,
    read_rows,
    table_row,
)
from ledger_core.event.reader import Reader
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from tests.event import strategies

READER = Reader(lambda: "0192f0c1-7c1a-7c3a-9d2f-000000000000", lambda: 0)
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
RECEIVED = "2026-11-25T02:03:36.130001Z"


def leaf(**fields: Any) -> bytes:
    event = {"actor": {"id": "u_1"}, "action": "a.b", "outcome": "success", **fields}
    read = READER.read_object(event)
    return format_leaf(event_json=read.event_json, by="api", received_time=RECEIVED)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def as_row(**fields: Any) -> dict[str, str]:
    (row,) = read(format_header() + format_rows([table_row(17, leaf(**fields))]))
    return row


def test_every_column_holds_what_the_event_says() -> None:
    raw = leaf(
        actor={
            "id": "u_1",
            "type": "user",
            "name": "Ann",
            "session": "s_9",
            "credential": "tok_1",
            "on_behalf_of": {"id": "u_88", "type": "user", "name": "Bea"},
        },
        targets=[{"id": "t_1", "type": "doc", "name": "Plan"}, {"id": "t_2"}],
        source={"ip": "203.0.113.9", "port": 51234, "service": "web", "user_agent": "UA"},
        reason='a "reason", with\r\nlines',
        changes=[{"path": "/role", "before": None, "after": "admin"}],
        context={"b": 1, "a": "x"},
        tenant="acme",
        recorder={"instance": "i", "seq": 5},
    )
    (row,) = read(format_header() + format_rows([table_row(17, raw)]))
    assert row == {
        "index": "17",
        "id": "0192f0c1-7c1a-7c3a-9d2f-000000000000",
        "time": "1970-01-01T00:00:00.000000Z",
        "received_time": RECEIVED,
        "received_by": "api",
        "actor_type": "user",
        "actor_id": "u_1",
        "actor_name": "Ann",
        "session": "s_9",
        "credential": "tok_1",
        "on_behalf_of_type": "user",
        "on_behalf_of_id": "u_88",
        "action": "a.b",
        "outcome": "success",
        "target_type": "doc",
        "target_id": "t_1",
        "target_name": "Plan",
        "targets": '[{"id":"t_1","name":"Plan","type":"doc"},{"id":"t_2"}]',
        "source_ip": "203.0.113.9",
        "source_port": "51234",
        "source_service": "web",
        "user_agent": "UA",
        "reason": 'a "reason", with\r\nlines',
        "changes": '[{"after":"admin","before":null,"path":"/role"}]',
        "context": '{"a":"x","b":1}',
        "tenant": "acme",
        "recorder_instance": "i",
        "recorder_seq": "5",
        "leaf_hash": leaf_hash(raw).hex(),
        "on_behalf_of_name": "Bea",
    }


def test_an_event_with_the_required_fields_alone_has_all_columns() -> None:
    row = as_row()
    assert tuple(row) == COLUMNS
    assert row["targets"] == row["source_ip"] == row["context"] == ""


@pytest.mark.parametrize("sign", FORMULAS)
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe(sign: str) -> None:
    text = f'{sign}cmd|" /C calc"!A0'
    row = as_row(actor={"id": text}, reason=text)
    assert row["actor_id"] == row["reason"] == f"'{text}"


@pytest.mark.parametrize("separator", [";", "\t", "\n", "\r"])
@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\uff1d"])
def test_a_formula_behind_another_separator_of_cells_gets_an_apostrophe(
    separator: str, sign: str
) -> None:
    row = as_row(reason=f"x{separator}{sign}1+1", context={"note": f"x;{sign}1"})
    assert row["reason"] == f"x{separator}'{sign}1+1"
    assert f";{sign}" not in row["context"]
    assert json.loads(row["context"]) == {"note": f"x;{sign}1"}


risky = st.sampled_from([*"=+-@'\t\r\n;a"])


@given(
    st.text(st.characters(exclude_characters="\0", codec="utf-8") | risky, min_size=1, max_size=20)
)
def test_any_text_comes_back_when_the_apostrophes_are_taken_away(text: str) -> None:
    cell = as_row(actor={"id": text})["actor_id"]
    assert not cell.startswith(FORMULAS)
    assert not re.search("[;\t\r\n][=+@\uff1d\uff0b\uff0d\uff20-]", cell)
    cell = re.sub(r"(?<=[;\t\r\n])'(?=[=+@'\uff1d\uff0b\uff0d\uff20-])", "", cell)
    assert cell.removeprefix("'") == text


def test_lines_end_as_rfc_4180_has_it() -> None:
    text = format_header() + format_rows([table_row(0, leaf())])
    assert text.count("\r\n") == 2
    assert text.endswith("\r\n")


def test_cells_with_json_are_json() -> None:
    targets = [{"id": "=1", "name": "a,b\n"}]
    assert json.loads(as_row(targets=targets)["targets"]) == targets


def test_what_is_no_leaf_is_refused() -> None:
    with pytest.raises(MalformedError, match="entry 3 is not a leaf"):
        table_row(3, b"{}")


def cells_of(raw: bytes) -> list[str]:
    (row,) = csv.reader(io.StringIO(format_rows([table_row(17, raw)]), newline=""), strict=True)
    return row


@given(strategies.events)
def test_a_row_gives_its_leaf_back(fields: dict[str, Any]) -> None:
    raw = leaf(**fields)
    assert read_row(cells_of(raw)) == (17, raw)


@pytest.mark.parametrize(
    "fields",
    [
        {"reason": ""},
        {"reason": "", "source": {}, "targets": [], "changes": [], "context": {}},
        {"source": {"user_agent": ""}, "actor": {"id": "u", "name": ""}},
        {"actor": {"id": "u", "on_behalf_of": {"id": "v", "name": ""}}},
        {"reason": "=;=", "actor": {"id": "';'=\r\n@"}, "context": {"=": ";=", ";=": 1.5}},
    ],
)
def test_a_row_tells_an_empty_text_from_none(fields: dict[str, Any]) -> None:
    raw = leaf(**fields)
    assert read_row(cells_of(raw)) == (17, raw)


@pytest.mark.parametrize("column", [name for name in COLUMNS if name != "index"])
def test_no_cell_of_a_row_can_be_changed(column: str) -> None:
    raw = leaf(
        actor={"id": "u", "type": "user", "on_behalf_of": {"id": "v"}},
        targets=[{"id": "t"}],
        source={"ip": "203.0.113.9", "port": 80},
        context={"a": 1},
        recorder={"instance": "i", "seq": 5},
    )
    for other in ("x", "", "7", "[]", "203.0.113.8"):
        cells = cells_of(raw)
        place = COLUMNS.index(column)
        if cells[place] == other:
            continue
        cells[place] = other
        with pytest.raises((MalformedError, VerificationError)):
            read_row(cells)
    with pytest.raises(MalformedError, match="28 cells"):
        read_row(cells_of(raw)[:28])


@pytest.mark.parametrize("column", [name for name in COLUMNS if name != "index"])
def test_no_empty_cell_of_a_row_can_be_filled(column: str) -> None:
    """A cell that the leaf of the row lacks altogether is not covered by its hash either."""
    place = COLUMNS.index(column)
    sparse: list[dict[str, Any]] = [
        {}, {"reason": ""}, {"source": {}, "targets": [], "changes": [], "context": {}},
    ]  # fmt: skip
    for fields in sparse:
        for other in ("x", "7", "[]", '"x"', "203.0.113.8"):
            cells = cells_of(leaf(**fields))
            if cells[place] == other:
                continue
            cells[place] = other
            with pytest.raises((MalformedError, VerificationError)):
                read_row(cells)
            assert read_rows([cells_of(leaf()), cells]) is None


def test_a_formula_without_its_apostrophe_is_refused() -> None:
    cells = cells_of(leaf(reason="=1+1"))
    cells[COLUMNS.index("reason")] = "=1+1"
    with pytest.raises(VerificationError, match="not what its leaf says"):
        read_row(cells)


@given(st.text(alphabet="ds b;\t\r\n\x1e-=+@'x\uff1d\uff20é", max_size=8))
def test_a_risky_row_is_found_by_marks_as_by_the_expression(text: str) -> None:
    assert _is_risky(text) == (_may_be_formula(text) is not None)


FORGED = {"id": "0192f0c1-7c1a-7c3a-9d2f-00000000000f", "time": "2026-01-01T00:00:00.000000Z"}


@pytest.mark.parametrize("last", ["targets", "source_port", "recorder_seq", "received_time"])
def test_a_cell_that_ends_within_a_value_makes_no_other_row_of_the_same_leaf(last: str) -> None:
    """The context of the event holds the text of other cells; a cell holds the rest of the leaf."""
    fake = {
        **FORGED,
        "b": 1,
        "outcome": "success",
        "recorder": {"instance": "i", "seq": 5},
        "source": {"port": 7},
        "targets": [{"id": "t"}],
    }
    raw = leaf(
        outcome="denied",
        context={"a": fake, "received": {"by": "x", "time": RECEIVED}},
        recorder={"instance": "j", "seq": 6},
        source={"port": 8},
        targets=[{"id": "u"}],
    ).decode()
    true = dict(zip(COLUMNS, map(str, table_row(17, raw.encode())), strict=True))
    forged = true | FORGED | {"context": '{"a":{"b":1', "outcome": "success"}
    forged |= {"recorder_instance": "i", "recorder_seq": "5", "source_port": "7"}
    forged |= {"targets": '[{"id":"t"}]', "target_id": "t", "received_by": "x"}
    start, end, kept = {
        "recorder_seq": ('"seq":', '},"source"', ("source_port", "targets", "target_id")),
        "source_port": ('"port":', '},"targets"', ("targets", "target_id")),
        "targets": ('"targets":', f',"time":"{true["time"]}"', ()),
        "received_time": ('"by":"x","time":"', '"},"v"', ("time", "received_by")),
    }[last]
    forged |= {name: true[name] for name in (*kept, "time", "received_by")}
    if last == "received_time":
        forged |= {"time": FORGED["time"], "received_by": "x"}
    forged[last] = raw[raw.index(start) + len(start) : raw.rindex(end)]
    cells = [forged[name] for name in COLUMNS]
    assert (_plain_leaf(cells) == raw.encode()) is (last != "received_time")
    with pytest.raises((VerificationError, MalformedError)):
        read_row(cells)
    assert read_row([true[name] for name in COLUMNS]) == (17, raw.encode())
