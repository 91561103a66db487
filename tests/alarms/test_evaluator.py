"""Alarms on generated incidents: counts, groups, networks, sequences, silence, bounds."""

import json
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from ledger.alarms.config import parse_alarms, starter_alarms
from ledger.alarms.evaluator import KEY_CHARS_MAX, Evaluator, _Count
from ledger.alarms.firing import Firing, firing_event
from ledger.alarms.groups import GROUPS_MAX, VALUE_CHARS_MAX
from ledger.follow.firings import FIRED, MUTED
from ledger_client.collect.importers import load_format, read_records
from ledger_core.event.canonical import decode_event, decode_event_object, encode_event, format_leaf
from ledger_core.event.ids import format_uuid7
from ledger_core.event.model import EventError
from ledger_core.event.times import format_time, parse_time
from ledger_core.tlog.errors import MalformedError
from tests.service.test_samples import FILES

START_US = 1_795_841_016_000_000


def leaf(event: dict[str, Any], at_s: float, number: int = 0, *, sent_by: str = "app") -> bytes:
    at_us = START_US + int(at_s * 1_000_000)
    made = {
        "id": format_uuid7(unix_ms=at_us // 1000, random=number.to_bytes(10, "big")),
        "time": format_time(at_us),
        "actor": {"type": "user", "id": "u_1"},
        "action": "login.failed",
        "outcome": "failure",
        **event,
    }
    read, _ = decode_event_object(made)
    return format_leaf(event_json=encode_event(read), by=sent_by, received_time=format_time(at_us))


def fired(text: str, events: Sequence[tuple[float, dict[str, Any]]]) -> list[Firing]:
    """The firings of some alarms on events, each with its second."""
    evaluator = Evaluator(parse_alarms(text, "alarms.toml"), now_us=START_US)
    return [
        firing
        for index, (at_s, event) in enumerate(events)
        for firing in evaluator.feed(index, leaf(event, at_s, index))
    ]


def by(actor: str, **more: Any) -> dict[str, Any]:
    return {"actor": {"type": "user", "id": actor}, **more}


def source(address: str, actor: str = "u_1") -> dict[str, Any]:
    return by(actor, source={"ip": address})


QUIET_NEVER = parse_alarms('[a]\nquery = "action:a"\nby = "actor"\n', "alarms.toml")["a"]
FIVE = '[guessing]\nquery = "action:login.failed"\nby = "actor"\ncount = 5\nwindow_s = 300\n'


def test_five_within_the_window_fire_once() -> None:
    events = [(second * 60.0, by("jo")) for second in range(9)]
    (firing,) = fired(FIVE, events)
    assert firing.group == "jo"
    assert firing.count == 5
    assert firing.indices == (0, 1, 2, 3, 4)
    assert firing.time_us == START_US + 240_000_000


@pytest.mark.parametrize(
    "events",
    [
        [(second * 60.0, by("jo")) for second in range(4)],
        [(second * 76.0, by("jo")) for second in range(20)],  # Never five in 300 s.
        [(second * 1.0, by(f"u_{second}")) for second in range(20)],
        [(second * 1.0, by("jo", action="login.succeeded")) for second in range(20)],
    ],
)
def test_fewer_slower_or_other_events_fire_nothing(events: list[Any]) -> None:
    assert fired(FIVE, events) == []


def test_a_group_fires_again_after_the_repeat_time() -> None:
    events = [(second * 60.0, by("jo")) for second in range(130)]
    firings = fired(FIVE, events)
    assert [(each.time_us - START_US) // 1_000_000 for each in firings] == [240, 3840, 7440]


def test_four_accounts_from_one_network() -> None:
    text = (
        '[spray]\nquery = "action:login.failed"\nby = "source/24"\ndistinct = "actor"\ncount = 4\n'
    )
    one = [(n * 1.0, source(f"203.0.113.{n}", f"u_{n % 3}")) for n in range(9)]
    assert fired(text, one) == []
    (firing,) = fired(text, [*one, (9.0, source("203.0.113.200", "u_9"))])
    assert (firing.group, firing.count) == ("203.0.113.0/24", 4)
    spread = [(n * 1.0, source(f"203.0.{n}.7", f"u_{n}")) for n in range(20)]
    assert fired(text, spread) == []
    six = [(n * 1.0, source(f"2001:db8:0:{n}::1", f"u_{n}")) for n in range(4)]
    assert [each.group for each in fired(text, six)] == ["2001:db8::/48"]


THEN = FIVE.replace("300", "900") + 'then = "action:login.succeeded"\n'


def test_failures_followed_by_a_success() -> None:
    failures = [(n * 10.0, by("jo")) for n in range(5)]
    success = by("jo", action="login.succeeded", outcome="success")
    assert fired(THEN, failures) == []
    (firing,) = fired(THEN, [*failures, (60.0, success), (61.0, success)])
    assert firing.indices == (0, 1, 2, 3, 4, 5)
    assert fired(THEN, [*failures[:4], (60.0, success)]) == []
    assert fired(THEN, [*failures, (60.0, {**success, "actor": {"id": "other"}})]) == []
    assert fired(THEN, [*failures, (2000.0, success)]) == []


def test_silence_fires_when_nothing_came_in_time() -> None:
    text = '[silent]\nquery = "received.by:app"\nsilence_s = 600\n'
    assert fired(text, [(n * 500.0, {}) for n in range(5)]) == []
    (firing,) = fired(text, [(0.0, {}), (601.0, {}), (700.0, {})])
    assert firing.time_us == START_US + 600_000_000
    evaluator = Evaluator(parse_alarms(text, "x"), now_us=START_US)
    evaluator.feed(0, leaf({}, 0))
    assert evaluator.tick(START_US + 599_000_000) == []
    assert len(evaluator.tick(START_US + 600_000_000)) == 1
    assert evaluator.tick(START_US + 601_000_000) == []


def test_own_events_fire_nothing() -> None:
    text = '[any]\nquery = "action:ledger.*"\n'
    assert fired(text, [(0.0, {"action": FIRED}), (1.0, {"action": MUTED})]) == []
    assert len(fired(text, [(0.0, {"action": "ledger.token.created"})])) == 1


def counted_groups(evaluator: Evaluator) -> int:
    (rule,) = evaluator._rules
    assert isinstance(rule, _Count)
    return len(rule._counted)


def test_groups_are_bounded() -> None:
    evaluator = Evaluator(parse_alarms(FIVE, "x"), now_us=START_US)
    for number in range(GROUPS_MAX + 50):
        evaluator.feed(number, leaf(by(f"u_{number}"), 0.0, number))
    assert counted_groups(evaluator) == GROUPS_MAX


def test_many_groups_of_one_tenant_push_out_none_of_another() -> None:
    evaluator = Evaluator(parse_alarms(FIVE, "x"), now_us=START_US)
    other = by("u_1", tenant="other")
    for number in range(4):
        assert not evaluator.feed(number, leaf(other, 0.0, number))
    for number in range(4, GROUPS_MAX + 50):
        evaluator.feed(number, leaf(by(f"u_{number}", tenant="busy"), 0.0, number))
    assert counted_groups(evaluator) == GROUPS_MAX
    (firing,) = evaluator.feed(GROUPS_MAX + 50, leaf(other, 0.0, GROUPS_MAX + 50))
    assert firing.indices == (0, 1, 2, 3, GROUPS_MAX + 50)


BY_SOURCE = '[spray]\nquery = "action:login.failed"\nby = "source"\ndistinct = "actor"\ncount = 4\n'


@pytest.mark.parametrize("tenants", [False, True], ids=["one tenant", "a tenant for each"])
@pytest.mark.parametrize("text", [FIVE, BY_SOURCE], ids=["actors", "addresses"])
def test_many_groups_of_one_principal_push_out_none_of_another(text: str, *, tenants: bool) -> None:
    """Addresses are those of all tenants, and a token without a tenant can name any."""
    evaluator = Evaluator(parse_alarms(text, "x"), now_us=START_US)
    rule = parse_alarms(text, "x").popitem()[1]

    def event(number: int) -> dict[str, Any]:
        return source("203.0.113.9", "u_1" if rule.by == "actor" else f"u_{number}")

    for number in range(rule.count - 1):
        assert not evaluator.feed(number, leaf(event(number), 0.0, number))
    # Another address too, so that the principal of the first has more groups than one.
    evaluator.feed(10, leaf(source("203.0.113.10", "u_2"), 0.0, 10))
    for number in range(11, GROUPS_MAX + 50):
        made = source(str(ip_address(0x0A000000 + number)), f"x_{number}")
        more = {"tenant": f"t_{number}"} if tenants else {}
        evaluator.feed(number, leaf({**made, **more}, 0.0, number, sent_by="hostile"))
    assert counted_groups(evaluator) == GROUPS_MAX
    # Nor by counting the other's group, whose owner is the one with fewer.
    last = event(rule.count - 1)
    if rule.by == "source":
        evaluator.feed(20_000, leaf(event(0), 0.0, 20_000, sent_by="hostile"))
        for number in range(20_001, 20_001 + GROUPS_MAX):
            made = source(str(ip_address(0x0B000000 + number)), f"x_{number}")
            evaluator.feed(number, leaf(made, 0.0, number, sent_by="hostile"))
    (firing,) = evaluator.feed(40_000, leaf(last, 0.0, 40_000))
    assert firing.group == ("u_1" if rule.by == "actor" else "203.0.113.9")


def test_a_service_that_fell_silent_is_not_forgotten_for_others_that_were_made_up() -> None:
    text = '[silent]\nquery = "action:login.failed"\nby = "service"\nsilence_s = 100\n'
    evaluator = Evaluator(parse_alarms(text, "x"), now_us=START_US)
    for number, name in enumerate(("web", "shop")):
        evaluator.feed(number, leaf({"source": {"service": name}}, 0.0, number))
    for number in range(2, GROUPS_MAX + 50):
        made = {"source": {"service": f"x_{number}"}}
        evaluator.feed(number, leaf(made, 50.0, number, sent_by="hostile"))
    groups = {firing.group for firing in evaluator.tick(START_US + 101_000_000)}
    assert groups == {"web", "shop"}


def test_what_tells_long_groups_apart_is_short() -> None:
    evaluator = Evaluator(parse_alarms(FIVE.replace("5", "1", 1), "x"), now_us=START_US)
    for number, end in enumerate("aab"):
        evaluator.feed(number, leaf(by("x" * 255 + end), 0.0, number))
    assert len(evaluator.fired) == 2
    assert all(len(key) <= KEY_CHARS_MAX for key in evaluator.fired)


@pytest.mark.parametrize("char", ["x", "\U0001f600", '"', "\x1b"])
@pytest.mark.parametrize("field", ["request", "trace", "user_agent"])
def test_a_group_with_a_very_long_value_fires_an_event_that_is_valid(field: str, char: str) -> None:
    text = f'[long]\nquery = "action:login.failed"\nby = "{field}"\nsummary = "{"s" * 500}"\n'
    alarms = parse_alarms(text, "x")
    evaluator = Evaluator(alarms, now_us=START_US)
    for number, end in enumerate("aba"):
        value = char * (500 if field == "user_agent" else 8_000) + end
        more = {
            "request": {"context": {"request_id": value}},
            "trace": {"context": {"trace_id": value}},
            "user_agent": {"source": {"user_agent": value}},
        }[field]
        firings = evaluator.feed(number, leaf(more, 0.0, number))
        assert len(firings) == (number < 2)
        for firing in firings:
            made = firing_event(firing, alarms["long"], origin="o" * 200, mirror="m" * 200)
            assert decode_event(made)[0].action == FIRED
            assert len(firing.group) <= VALUE_CHARS_MAX


def test_quiet_times_and_tests_have_actions_of_their_own() -> None:
    quiet = parse_alarms(FIVE + 'quiet = ["22:00-06:00", "12:00-12:30"]\n', "x")["guessing"]

    def action(at: str, test: str = "") -> str:
        firing = Firing(alarm="guessing", group="jo", count=5, indices=(1,), time_us=parse_time(at))
        made = firing_event(firing, quiet, origin="example.com/audit", test=test)
        decode_event(made)  # It is a valid event.
        return str(json.loads(made)["action"])

    assert action("2026-11-25T23:00:00Z") == MUTED
    assert action("2026-11-25T05:59:59Z") == MUTED
    assert action("2026-11-25T06:00:00Z") == FIRED
    assert action("2026-11-25T12:29:00Z") == MUTED
    assert action("2026-11-25T12:30:00Z") == FIRED
    assert action("2026-11-25T23:00:00Z", test="x") == FIRED


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a]\nquery = ''", "query: empty"),
        ("[a]\nquery = 'x:y'", "query: "),
        ("[a]\nquery = 'a'\nthen = 'x:y'", "then: "),
        ("[a]\nquery = 'a'\nby = 'reason'", "by: want one of"),
        ("[a]\nquery = 'a'\nby = 'actor/8'", "network is source"),
        ("[a]\nquery = 'a'\ncount = 0", "count"),
        ("[a]\nquery = 'a'\nsilence_s = 5\ncount = 2", "silence_s"),
        ("[a]\nquery = 'a'\nsilence_s = 5\nby = 'reason'", "by: want one of"),
        ("[a]\nkind = 'gap'\nquery = 'a'", "query: goes with alarms of kind events"),
        ("[a]\nkind = 'witness'\nby = 'actor'", "by: goes with"),
        ("[a]\nkind = 'gap'\nsilence_s = 5", "silence_s: goes with"),
        ("[a]\nkind = 'gap'\nquiet = ['9-10']", "quiet: want"),
        ("[a]\nkind = 'other'", "kind"),
        ("[a]\nkind = 'events'", "query: empty"),
        ("[a]\nquery = 'a'\nquiet = ['25:00-26:00']", "quiet"),
        ("[a]\nquery = 'a'\nother = 1", "other"),
        ("['a b']\nquery = 'a'", "name"),
        ("[a", "alarms.toml"),
    ],
)
def test_a_bad_alarm_is_refused_with_its_key(text: str, fault: str) -> None:
    with pytest.raises(MalformedError, match=fault):
        parse_alarms(text, "alarms.toml")


def numbered(instance: str, seq: int, **more: Any) -> dict[str, Any]:
    event = {"action": "record.viewed", "outcome": "success"}
    return {**event, "recorder": {"instance": instance, "seq": seq}, **more}


INCIDENTS = {
    "recorder-gap": [
        (0.0, numbered("r", 1)),
        (1.0, numbered("r", 3)),
        (700.0, numbered("r", 4)),
    ],
    "guessing-one-account": [(n * 20.0, by("jo")) for n in range(5)],
    "guessing-from-one-source": [(n * 20.0, source(f"198.51.100.{n}", f"u_{n}")) for n in range(4)],
    "guessed": [
        *((n * 20.0, by("jo")) for n in range(5)),
        (120.0, by("jo", action="login.succeeded", outcome="success")),
    ],
    "made-admin": [
        (
            0.0,
            by(
                "jo",
                action="user.role_changed",
                outcome="success",
                targets=[{"type": "user", "id": "eve"}],
                changes=[{"path": "role", "before": "viewer", "after": "admin"}],
            ),
        )
    ],
    "many-denied": [(n * 5.0, by("jo", action="file.read", outcome="denied")) for n in range(20)],
    "mass-deletion": [
        (n * 5.0, by("jo", action="record.deleted", outcome="success")) for n in range(50)
    ],
    "private-values-erased": [
        (n * 5.0, by("jo", action="ledger.private.erased", outcome="success")) for n in range(20)
    ],
}


@pytest.mark.parametrize("name", parse_alarms(starter_alarms(), "starter"))
def test_the_starter_set_notices_its_incident(name: str) -> None:
    if name == "witness-missing":
        evaluator = Evaluator(
            parse_alarms(starter_alarms(), "starter"), now_us=START_US, witnesses=["w1", "w2"]
        )
        hour_us = START_US + 3_600_000_000
        evaluator.saw_head({"w1": hour_us - 1}, now_us=hour_us)
        assert [(each.alarm, each.group) for each in evaluator.tick(hour_us)] == [(name, "w2")]
        return
    firings = fired(starter_alarms(), INCIDENTS[name])
    assert name in {firing.alarm for firing in firings}


def test_a_quiet_day_fires_nothing_of_the_starter_set() -> None:
    day: list[tuple[float, dict[str, Any]]] = []
    for hour in range(24):
        for user in range(40):
            at = hour * 3600.0 + user * 80
            if user % 9 == 0:  # Somebody mistypes a password now and then.
                day.append((at, by(f"u_{user}", source={"ip": f"10.{user}.0.1"})))
            day += [
                (at + 5, by(f"u_{user}", action="login.succeeded", outcome="success")),
                (at + 9, by(f"u_{user}", action="record.viewed", outcome="success")),
                (at + 12, by(f"u_{user}", action="record.deleted", outcome="success")),
            ]
    # Two recorders number them; one is started anew in each hour, the other lost some and says so.
    numbers = {"busy": 0}
    for place, (at, event) in enumerate(day):
        instance = "busy" if place % 2 else f"hour_{int(at) // 3600}"
        numbers[instance] = numbers.get(instance, 0) + 1
        event["recorder"] = {"instance": instance, "seq": numbers[instance]}
        if place == 1001:
            numbers["busy"] += 3
            event["recorder"]["seq"] += 3
            lost = [numbers["busy"] - 3, numbers["busy"] - 1]
            event["action"] = "ledger.recorder.dropped"
            event["context"] = {"dropped": {"instance": "busy", "count": 3, "numbers": [lost]}}
    assert fired(starter_alarms(), day) == []


@pytest.mark.shared
def test_the_samples_fire_nothing_of_the_starter_set(shared_dir: Path) -> None:
    """Each event is received when it happened, as if the log had been there."""
    for name, file in FILES.items():
        format_ = load_format(name, "keep")
        events = []
        for record in read_records(shared_dir / "samples" / f"{file}.jsonl"):
            with suppress(EventError):  # a statistic, which tests/client/importing has judged
                events += format_.map(record.raw)
        timed = sorted(
            ((parse_time(event["time"]) - START_US) / 1_000_000, number, event)
            for number, event in enumerate(events)
        )
        assert fired(starter_alarms(), [(at_s, event) for at_s, _, event in timed]) == [], file


def test_a_firing_is_a_valid_event_whatever_its_query_and_group_are() -> None:
    query = " OR ".join(f"action:some.action_{number}" for number in range(150))
    (alarm,) = parse_alarms(f'[long]\nquery = "{query}"\nby = "actor"\n', "x").values()
    group = "u" * 1000
    firing = Firing(alarm="long", group=group, count=1, indices=(1,), time_us=START_US)
    event = decode_event(firing_event(firing, alarm, origin="example.com/audit"))[0]
    assert str(event.reason).endswith(group + ")")


def test_a_tenant_neither_fires_an_alarm_about_another_ones_actor_nor_silences_it() -> None:
    pretended = [(second, by("admin", tenant="a")) for second in range(4)]
    real = [(60 + second, by("admin", tenant="b")) for second in range(5)]
    without = [(120 + second, by("admin")) for second in range(5)]
    firings = fired(FIVE, [*pretended, *real, (70, by("admin", tenant="a")), *without])
    assert [(each.group, each.tenant, each.count) for each in firings] == [
        ("admin", "b", 5),
        ("admin", "a", 5),
        ("admin", "", 5),
    ]
    made = [firing_event(each, QUIET_NEVER, origin="example.com/audit") for each in firings]
    contexts = [json.loads(each)["context"] for each in made]
    assert [each.get("tenant") for each in contexts] == ["b", "a", None]


def test_an_address_is_one_group_whosever_events_it_has() -> None:
    text = FIVE.replace('by = "actor"', 'by = "source"')
    events = [(second, source("203.0.113.9") | {"tenant": f"t{second}"}) for second in range(5)]
    assert [each.group for each in fired(text, events)] == ["203.0.113.9"]
