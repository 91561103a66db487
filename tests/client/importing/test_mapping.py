"""Mapping files: what they say, what is refused in them, and that the documentation has it."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from ledger_client.collect.importers import (
    FORMATS,
    FileMapper,
    Mapped,
    load_format,
    load_format_file,
    read_records,
)
from ledger_client.collect.importers.apply_mapping import UNKNOWN_TIME
from ledger_client.collect.importers.mapping import MAPPING_BYTES_MAX, parse_mapping
from ledger_core.event.model import EventError
from ledger_core.tlog.errors import MalformedError

DOCS = Path(__file__).parents[3] / "docs" / "importers.md"
HEAD = 'name = "test"\n'
EVENT = """
[event]
action = "what"
time = "at"
[event.actor]
id = "who"
[event.outcome]
success = "`true`"
"""
RECORD = {"who": "jo", "what": "door.opened", "at": "2026-11-25T02:03:36Z"}


def explain(mapping: str, record: object) -> list[Mapped]:
    return parse_mapping(mapping).explain(json.dumps(record).encode())


def event_of(mapping: str, **members: Any) -> dict[str, Any]:
    (mapped,) = explain(HEAD + mapping, {**RECORD, **members})
    return mapped.event


def test_the_documentation_names_every_format_function_and_key() -> None:
    from ledger_client.collect.importers.expressions import _Functions
    from ledger_client.collect.importers.mapping import _File
    from ledger_client.collect.importers.mapping_schema import EventTable

    text = DOCS.read_text(encoding="utf-8")
    ours = {name for name in vars(_Functions) if name.startswith("_func_")}
    for name in [*FORMATS, *_File.__struct_fields__, *EventTable.__struct_fields__]:
        assert f"`{name}`" in text or f"event.{name}]" in text or f"[{name}]" in text, name
    for name in ours:
        assert f"`{name.removeprefix('_func_')}(" in text


def test_every_format_but_our_own_is_a_mapping_file_and_every_file_is_a_format() -> None:
    folder = files("ledger_client.collect.importers") / "mappings"
    names = {Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml")}
    assert names == {*FORMATS} - {"jsonl"}
    for name in FORMATS:
        assert load_format(name).name == name
    with pytest.raises(ValueError, match="no such format"):
        load_format("../../secrets")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not TOML"),
        ('name = "test"', "missing required field `event`"),
        ('name = "a b"' + EVENT, "name: at most 64"),
        (HEAD + "more = 1" + EVENT, "unknown field `more`"),
        (HEAD + 'keys = "lower"' + EVENT, "keys: "),
        (HEAD + 'time_zone = "Berlin"' + EVENT, "time_zone: "),
        (HEAD + EVENT + "failed = 'x'", r"event.outcome: .*unknown field `failed`"),
        (HEAD + "event = []", "event: "),
        (HEAD + EVENT.replace('"who"', '"who["'), "event.actor.id: not a JMESPath expression"),
        (HEAD + EVENT.replace('"who"', '""'), "event.actor.id: not a JMESPath expression"),
        (HEAD + EVENT.replace('"who"', '"!who.name && who"'), r"event.actor.id: .*`!\(a.b\)`"),
        (HEAD + EVENT.replace('"who"', '"who && !who[?name]"'), r"event.actor.id: .*`!\(a.b\)`"),
        (HEAD + EVENT.replace('"who"', '"!who[]"'), r"event.actor.id: .*`!\(a.b\)`"),
        (HEAD + EVENT.replace('"who"', "[]"), "event.actor.id: an expression is"),
        (HEAD + EVENT.replace('"who"', "7"), "event.actor.id: an expression is"),
        (HEAD + EVENT.replace('"who"', '"a && [shout(who)]"'), "event.actor.id: .*function shout"),
        (HEAD + EVENT.replace('"who"', '"lower(who, what)"'), r"event.actor.id: lower\(\) takes 1"),
    ],
)  # fmt: skip
def test_a_mapping_that_cannot_work_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        parse_mapping(text)


@pytest.mark.parametrize("content", [b"\xff", b"#" * (MAPPING_BYTES_MAX + 1), b"name = 7"])
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(MalformedError, match=r"mine\.toml: "):
        load_format_file(path)


def test_the_first_expression_that_gives_a_text_is_taken() -> None:
    mapping = EVENT.replace('"who"', '["a.b", "list", "empty", "number", "who"]')
    assert event_of(mapping, list=["x"], empty="")["actor"] == {"id": "jo"}
    assert event_of(mapping, list=["x"], number=7)["actor"] == {"id": "7"}
    assert event_of(mapping, a={"b": "deep"})["actor"] == {"id": "deep"}


def test_an_expression_that_fails_on_a_record_gives_nothing() -> None:
    mapping = EVENT.replace('"who"', '["lower(number)", "sort(mixed)[0]", "who"]')
    assert event_of(mapping, number=7, mixed=[1, "a"])["actor"] == {"id": "jo"}


def test_the_outcome_is_the_first_condition_that_holds() -> None:
    mapping = EVENT.replace("`true`", "code < `400`") + "denied = 'code == `403`'\nfailure = 'code'"
    codes: tuple[Any, ...] = (403, 404, None, "", [])
    outcomes = [event_of(mapping, code=code)["outcome"] for code in codes]
    assert outcomes == ["denied", "failure", "unknown", "unknown", "unknown"]
    assert event_of(EVENT)["outcome"] == "success"


@pytest.mark.parametrize(
    ("at", "zone", "time"),
    [
        ("2026-11-25 02:03:36", "Z", "2026-11-25T02:03:36.000000Z"),
        ("2026-11-25 02:03:36.5", "+01:00", "2026-11-25T01:03:36.500000Z"),
        ("2026-11-25T02:03:36-05:00", "+01:00", "2026-11-25T07:03:36.000000Z"),
        ("2026-11-25", "-05:00", "2026-11-25T05:00:00.000000Z"),
        ("2026-11-25T02:03:36+0000", None, "2026-11-25T02:03:36.000000Z"),
        ("2026-11-25T02:03:36+01", None, "2026-11-25T01:03:36.000000Z"),
        ("2026-11-25T02:03:36,123Z", None, "2026-11-25T02:03:36.123000Z"),
        ("2026-11-25 02:03:36 UTC", None, "2026-11-25T02:03:36.000000Z"),
        ("2026-11-25 02:03:36 -0700", None, "2026-11-25T09:03:36.000000Z"),
        ("20261124T100000Z", None, "2026-11-24T10:00:00.000000Z"),
        ("2026-11-25T02:03Z", None, "2026-11-25T02:03:00.000000Z"),
        ("2026-12-31T23:59:60Z", None, "2026-12-31T23:59:59.000000Z"),
        ("Tue, 24 Nov 2026 10:00:00 +0100", None, "2026-11-24T09:00:00.000000Z"),
        ("24 Nov 2026 10:00 GMT", None, "2026-11-24T10:00:00.000000Z"),
        ("[24/Nov/2026:10:00:00 +0100]", None, "2026-11-24T09:00:00.000000Z"),
        ("1790000000", None, "2026-09-21T14:13:20.000000Z"),
        ("1790000000.5", None, "2026-09-21T14:13:20.500000Z"),
        ("1790000000123", None, "2026-09-21T14:13:20.123000Z"),
        ("1790000000123456", None, "2026-09-21T14:13:20.123456Z"),
        ("1790000000123456789", None, "2026-09-21T14:13:20.123457Z"),
        (1_790_000_000, None, "2026-09-21T14:13:20.000000Z"),
        (1_790_000_000.1234567, None, "2026-09-21T14:13:20.123457Z"),
    ],
)
def test_a_time_is_read_in_every_form_that_systems_write(
    at: object, zone: str | None, time: str
) -> None:
    event = event_of((f'time_zone = "{zone}"' if zone else "") + EVENT, at=at)
    assert event["time"] == time
    is_changed = at in ("2026-11-25", "2026-12-31T23:59:60Z")
    assert ("import_notes" in event["context"]) is is_changed


@pytest.mark.parametrize(
    "at",
    [
        "2026-11-25 02:03:36",
        "2026-11-25",
        "2026-11-25T02:03:36 EST",
        "2026-02-30T00:00:00Z",
        "24/Foo/2026:10:00:00 +0100",
        "1969-12-31T23:59:59Z",
        "12345678901",
        "",
        True,
        None,
    ],
)
def test_a_record_whose_time_cannot_be_read_is_refused_or_kept_with_a_note(at: object) -> None:
    with pytest.raises(EventError, match="time: the record has none that can be read"):
        event_of(EVENT, at=at)
    format_ = parse_mapping(HEAD + EVENT, "keep")
    (event,) = format_.map(json.dumps({**RECORD, "at": at}).encode())
    assert event["time"] == UNKNOWN_TIME
    assert event["context"]["import_notes"][0].startswith("time: the record has none")


def test_a_mapping_may_name_the_format_of_a_time() -> None:
    mapping = EVENT.replace('"at"', "\"parse_time(at, '%d.%m.%Y %H:%M')\"")
    assert event_of('time_zone = "+01:00"' + mapping, at="24.11.2026 10:00")["time"] == (
        "2026-11-24T09:00:00.000000Z"
    )
    zoned = EVENT.replace('"at"', "\"parse_time(at, '%d.%m.%Y %H:%M %z')\"")
    assert event_of(zoned, at="24.11.2026 10:00 +0000")["time"] == "2026-11-24T10:00:00.000000Z"
    for at in ("24.11.2026", "24.11.2026 10:00", 7):
        with pytest.raises(EventError, match="time: the record has none"):
            event_of(zoned, at=at)


@pytest.mark.parametrize(
    ("ip", "source"),
    [
        ("192.0.2.1", {"ip": "192.0.2.1"}),
        ("192.0.2.1:443", {"ip": "192.0.2.1", "port": 443}),
        ("[2001:db8::1]:443", {"ip": "2001:db8::1", "port": 443}),
        ("[2001:db8::1]", {"ip": "2001:db8::1"}),
        ("2001:DB8::1", {"ip": "2001:db8::1"}),
        ("192.0.2.1:99999", {"ip": "192.0.2.1"}),
    ],
)
def test_an_address_may_have_a_port_behind_it(ip: str, source: dict[str, Any]) -> None:
    event = event_of(EVENT + '[event.source]\nip = "ip"', ip=ip)
    assert event["source"] == source
    assert "source_address" not in event["context"]


@pytest.mark.parametrize("ip", ["gce-internal-ip", "fe80::1%eth0", "192.0.2.256", "[]:1"])
def test_an_address_that_is_none_is_kept_beside_and_noted(ip: str) -> None:
    event = event_of(EVENT + '[event.source]\nip = "ip"', ip=ip)
    assert "source" not in event
    assert event["context"]["source_address"] == ip
    assert "source.ip: not an address" in event["context"]["import_notes"][0]


def test_targets_and_changes_come_from_each_item_of_a_list_or_from_the_record() -> None:
    mapping = (
        EVENT
        + """
[[event.targets]]
each = "doors"
id = "name"
type = "'door'"
[[event.targets]]
id = "house"
[[event.changes]]
each = "settings"
path = "key"
before = "old"
after = "new"
"""
    )
    event = event_of(
        mapping,
        doors=[{"name": "a"}, {"name": "b"}, {"name": "a"}, {}, "c"],
        house="h",
        settings=[
            {"key": "/x", "old": False, "new": 0},
            {"key": "/y", "new": ""},
            {"key": "/z"},
            {"old": 1},
        ],
    )
    assert event["targets"] == [
        {"id": "a", "type": "door"},
        {"id": "b", "type": "door"},
        {"id": "h"},
    ]
    assert event["changes"] == [
        {"path": "/x", "before": False, "after": 0},
        {"path": "/y", "after": ""},
    ]


def test_the_context_takes_any_value_that_an_event_can_hold_and_fits_the_rest() -> None:
    deep: Any = "x"
    for _ in range(12):
        deep = {"in": deep}
    event = event_of(
        EVENT + '[event.context]\na = "a"\nb = "b"\nc = "c"\nd = "d"\ne = "e"',
        a={"b": [1, None, "x\0"]},
        b=2**60,
        c=deep,
        d=[],
    )
    context = event["context"]
    assert context["a"] == {"b": [1, None, "x\ufffd"]}
    assert context["b"] == str(2**60)
    assert json.loads(context["c"]) == deep
    assert not {"d", "e"} & {*context}
    assert len(context["import_notes"]) == 3


def test_a_record_may_be_looked_at_elsewhere_and_is_kept_as_it_was() -> None:
    mapping = 'record = "parse_json(wrapped)"' + EVENT
    wrapped = {"wrapped": json.dumps({**RECORD, "who": "inner"})}
    assert event_of(mapping, **wrapped)["actor"] == {"id": "inner"}
    assert event_of(mapping, **wrapped)["context"]["original"] == {**RECORD, **wrapped}
    assert event_of(mapping, wrapped="not json")["actor"] == {"id": "jo"}


def test_a_record_that_spreads_makes_an_event_of_each_part() -> None:
    record = {"who": "jo", "at": RECORD["at"], "events": [{"what": "a.b"}, {"what": "c.d"}]}
    one, two = explain(HEAD + 'spread = "events"' + EVENT, record)
    assert (one.event["action"], two.event["action"]) == ("a.b", "c.d")
    assert one.event["actor"] == two.event["actor"] == {"id": "jo"}
    assert one.event["id"] != two.event["id"]
    assert one.event["context"]["original"] == {"who": "jo", "at": RECORD["at"], "what": "a.b"}
    for events in ([], "none", [1]):
        assert len(explain(HEAD + 'spread = "events"' + EVENT, {**RECORD, "events": events})) == 1


def test_ids_belong_to_the_record_the_name_and_what_the_mapping_says() -> None:
    one = event_of(EVENT)["id"]
    assert event_of(EVENT + "[event.context]\nw = 'who'")["id"] == one
    assert event_of(EVENT, more=1)["id"] != one
    assert explain('name = "other"' + EVENT, RECORD)[0].event["id"] != one
    natural = 'id = "uid"' + EVENT
    assert event_of(natural, uid="u", more=1)["id"] == event_of(natural, uid="u")["id"]
    assert event_of(natural, uid="u")["id"] != event_of(natural, uid="v")["id"]
    assert event_of(natural)["id"] == one


def test_equal_records_of_one_file_are_that_many_events_each_time_the_file_is_read() -> None:
    raw, other = (json.dumps({**RECORD, "n": n}).encode() for n in range(2))

    def ids(mapping: str, *raws: bytes) -> list[str]:
        mapper = FileMapper(parse_mapping(HEAD + mapping))
        return [mapped.event["id"] for each in raws for mapped in mapper.explain(each)]

    found = ids(EVENT, raw, raw, other, raw)
    assert len({*found}) == 4
    assert ids(EVENT, raw, raw, other, raw) == found
    # The first keeps the id that it has alone.
    assert ids(EVENT, raw) == found[:1]
    spread = json.dumps({**RECORD, "parts": [{"a": 1}, {"a": 1}]}).encode()
    assert len({*ids('spread = "parts"' + EVENT, spread)}) == 2
    # One with an id of its own is one event, however often it is delivered.
    natural = json.dumps({**RECORD, "uid": "u"}).encode()
    assert len({*ids('id = "uid"' + EVENT, natural, natural)}) == 1


def test_an_empty_text_is_no_id() -> None:
    natural = 'id = "uid"' + EVENT
    assert event_of(natural, uid="", n=1)["id"] != event_of(natural, uid="", n=2)["id"]


def test_two_targets_with_one_id_and_two_types_are_two() -> None:
    mapping = EVENT + '[[event.targets]]\neach = "things"\nid = "id"\ntype = "type"'
    things = [{"id": "7", "type": "user"}, {"id": "7", "type": "group"}, {"id": "7"}]
    assert event_of(mapping, things=things)["targets"] == things[:2]


def test_members_outside_the_part_that_is_mapped_can_be_named_and_are_left_over() -> None:
    mapping = HEAD + 'record = "parse_json(log)"' + EVENT + '[event.context]\nh = "whole().host"'
    outer = {"log": json.dumps({**RECORD, "in": 1}), "host": "web-1", "stream": "stderr"}
    (mapped,) = explain(mapping, outer)
    assert mapped.event["context"]["h"] == "web-1"
    assert mapped.left_over == ["in", "stream"]
    (mapped,) = explain(HEAD + 'record = "log"' + EVENT, {"log": RECORD, "stream": 1})
    assert mapped.left_over == ["stream"]


def test_what_is_read_of_a_merged_object_is_not_left_over_of_its_parts() -> None:
    mapping = HEAD + 'record = "merge(@, inner)"' + EVENT + '[event.context]\ne = "extra"'
    record = {**RECORD, "who": "outer", "inner": {"who": "jo", "extra": 1, "other": 2}, "n": 3}
    (mapped,) = explain(mapping, record)
    assert mapped.event["actor"] == {"id": "jo"}
    # That who of the outer object is not used is said.
    assert mapped.left_over == ["who", "inner.other", "n"]


@pytest.mark.parametrize("number", ["1.50", "1.0", "1e3", "-0", "12345678901234567890", "0.1e-9"])
def test_numbers_of_the_original_stay_as_they_were_written(number: str) -> None:
    raw = f'{{"who": "jo", "what": "a.b", "at": 1790000000, "n": {number}}}'
    (event,) = parse_mapping(HEAD + EVENT).map(raw.encode())
    assert number in event["context"]["original_text"]
    (event,) = parse_mapping(HEAD + EVENT).map(raw.replace(number, "1.5").encode())
    assert event["context"]["original"]["n"] == 1.5


def test_several_tables_are_tried_in_order() -> None:
    table = EVENT.replace("[event]", "[[event]]\nwhen = \"kind == 'KIND'\"")
    mapping = table.replace("KIND", "a") + table.replace("KIND", "b").replace('"who"', "\"'bee'\"")
    assert event_of(mapping, kind="a")["actor"] == {"id": "jo"}
    assert event_of(mapping, kind="b")["actor"] == {"id": "bee"}
    with pytest.raises(EventError, match="no table for such a record"):
        event_of(mapping, kind="c")


def test_keys_are_found_in_any_case_only_where_the_mapping_says_so() -> None:
    record = {"WHO": "jo", "What": "a.b", "at": RECORD["at"]}
    assert explain(HEAD + 'keys = "any-case"' + EVENT, record)[0].event["actor"] == {"id": "jo"}
    with pytest.raises(EventError, match="action: the record has none"):
        explain(HEAD + EVENT, record)


def test_a_note_is_written_when_its_condition_holds() -> None:
    mapping = EVENT + '[event.notes]\n"actor: a guess" = "guessed"'
    assert event_of(mapping, guessed=True)["context"]["import_notes"] == ["actor: a guess"]
    assert "import_notes" not in event_of(mapping)["context"]


def test_what_no_expression_looked_at_is_left_over() -> None:
    record = {
        **RECORD,
        "used": {"a": 1, "b": {"c": 2}},
        "half": {"seen": 1, "unseen": 2},
        "list": [{"id": "x", "colour": "red"}, {"id": "y", "colour": "blue"}],
        "numbers": [1, 2],
    }
    mapping = (
        EVENT
        + """
[[event.targets]]
each = "list"
id = "id"
[event.context]
used = "used"
half = "half.seen"
"""
    )
    (mapped,) = explain(HEAD + mapping, record)
    assert mapped.left_over == ["half.unseen", "list[].colour", "numbers"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("lower('ABC')", "abc"),
        ("replace('a/b/c', '/', '.')", "a.b.c"),
        ("split('a,b', ',')", ["a", "b"]),
        ("split('ab', '')", ["ab"]),
        ("after('a:b:c', ':')", "b:c"),
        ("after('abc', ':')", None),
        ("without_suffix('iam.amazonaws.com', '.amazonaws.com')", "iam"),
        ("member(o, k)", 1),
        ("is_address('::1')", True),
        ("is_address('::g')", False),
        ("parse_json('[1]')", [1]),
        ("from_bytes(`[72, 105]`)", "Hi"),
        ("from_bytes(`[256]`)", None),
        ("parse_json('[')", None),
        ("by_name(pairs)", {"a": 1, "b": None}),
        ("by_name(o)", {"x": 1}),
        ("by_name(capitals)", {"a": 1, "b": 2, "c": None}),
        ("parse_csv(rows[0])", ["a", "b,c"]),
        ("parse_csv(rows[1])", None),
        ("parse_csv(rows[2])", None),
        ("parse_pairs('a=b, c=, d_1=x y, a=z')", {"a": "b", "c": "", "d_1": "x y"}),
        ("parse_pairs('none')", None),
        ("parse_windows_xml('<Event><a>1</a></Event>').a", "1"),
        ("parse_windows_xml('<Other/>')", None),
        ("merge(o, request).x", 1),
        ("from_unix(`1621305118553`, 'ms')", "2021-05-18T02:31:58.553000Z"),
        ("from_unix(`1621305118`, 's')", "2021-05-18T02:31:58.000000Z"),
        ("from_unix(`1.7`, 'us')", "1970-01-01T00:00:00.000002Z"),
        ("from_unix(`1790000000.123456`, 's')", "2026-09-21T14:13:20.123456Z"),
        ("from_unix(`1790000000123456789`, 'ns')", "2026-09-21T14:13:20.123457Z"),
        ("parse_time('24.11.2026', '%d.%m.%Y')", "2026-11-24T00:00:00"),
        ("parse_time('24.11.2026 UTC', '%d.%m.%Y %Z')", None),
        ("from_unix(`-1`, 's')", None),
        ("from_unix(`1`, 'h')", None),
        ("identifiers(request, ['noId'])[].id", ["jo", "k"]),
        ("identifiers(request, ['noId'])[].type", ["user", "key"]),
    ],
)  # fmt: skip
def test_each_function_gives_what_it_says(expression: str, value: object) -> None:
    event = event_of(
        EVENT + f'[event.context]\nvalue = "{expression}"',
        o={"x": 1},
        k="x",
        rows=['a,"b,c"', "a\nb", '"a'],
        capitals=[
            {"Name": "a", "Value": 1},
            {"Name": "b", "NewValue": 2, "OldValue": 3},
            {"Name": "c"},
        ],
        pairs=[{"name": "a", "value": 1}, {"name": "b"}, {"value": 2}, 3],
        request={"userName": "jo", "noId": "n", "inner": [{"keyId": "k", "id": "filter"}]},
    )
    assert event["context"].get("value") == value


def test_pages_of_the_reports_api_and_lists_of_the_api_server_are_read_as_they_come(
    tmp_path: Path,
) -> None:
    activity = {
        "id": {"time": "2026-11-25T02:03:36.000Z", "applicationName": "drive"},
        "actor": {"email": "jo@example.com"},
        "ipAddress": "192.0.2.1",
        "events": [
            {"name": "view", "parameters": [{"name": "doc_id", "value": "d1"}]},
            {"name": "download", "parameters": [{"name": "doc_id", "value": "d2"}]},
        ],
    }
    audit = {"kind": "Event", "verb": "get", "objectRef": {"resource": "pods", "name": "a"}}
    pages = {
        "gsuite": {"kind": "admin#reports#activities", "items": [activity]},
        "kubernetes": {"kind": "EventList", "items": [audit]},
    }
    said = []
    for name, page in pages.items():
        format_ = load_format(name, "keep")
        path = tmp_path / name
        path.write_text(json.dumps(page, indent=1), encoding="utf-8")
        for record in read_records(path, wrappers=format_.wrappers):
            said += [
                (event["actor"]["id"], event["action"], event["targets"][0]["id"])
                for event in format_.map(record.raw)
            ]
    assert said == [
        ("jo@example.com", "drive.view", "d1"),
        ("jo@example.com", "drive.download", "d2"),
        ("unknown", "pods.get", "pods/a"),
    ]


def test_the_address_of_a_kubernetes_event_is_that_of_the_connection() -> None:
    audit = {
        "kind": "Event",
        "auditID": "1",
        "verb": "delete",
        "user": {"username": "jo"},
        "sourceIPs": ["203.0.113.66", "192.0.2.4", "10.0.0.7"],
        "objectRef": {"resource": "secrets", "namespace": "prod", "name": "db"},
        "requestReceivedTimestamp": "2026-11-25T02:03:36.123456Z",
    }
    (event,) = load_format("kubernetes").map(json.dumps(audit).encode())
    assert event["source"]["ip"] == "10.0.0.7"
    assert event["context"]["source_addresses"] == ["203.0.113.66", "192.0.2.4"]
