"""The demo's week is valid and repeatable, and a responder can find the intruder in it."""

import hashlib
import json
import re
import statistics
from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID

import pytest

from ledger.demo.data import INTRUDER, QUESTIONS, Question, bad_week, week_before
from ledger.demo.data.company import SHOPS, STAFF
from ledger.demo.data.event_maker import DAY_US, MINUTE_US, Day
from ledger_core.event.reader import Reader
from ledger_core.event.times import parse_time

MONDAY_UNIX_US = 1_763_942_400_000_000  # 2025-11-24T00:00:00Z
SEEDS = (0, 1, 7)
# Seed: the number of events, and the SHA-256 of all of them as JSON with sorted keys.
CONTENTS = {
    0: (2632, "9d6aeb178231fcb026a123c989e0eccaaec5933b1dc0ebeb4343cd90f128e8a9"),
    1: (2561, "df989820b41b6e2fc0246ce7450234be9afb176cfc0bc88fac6dcd19100ae9bc"),
    7: (2587, "cd1cd4a58edd2be00d96b515da7fcd2480f11a30d2e2871e2195ba7bdf947181"),
}
DOCUMENTATION = tuple(
    ip_network(text)
    for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
)

Events = list[dict[str, Any]]


@pytest.fixture(scope="module", params=SEEDS)
def week(request: pytest.FixtureRequest) -> Events:
    return list(bad_week(start_unix_us=MONDAY_UNIX_US, seed=request.param))


def is_match(event: dict[str, Any], term: str) -> bool:
    """One `field:value` of a question, straight from the event."""
    field, value = term.split(":", 1)
    match field:
        case "source":
            return ip_address(event["source"]["ip"]) in ip_network(value)
        case "target":
            return value in (target["id"] for target in event.get("targets", ()))
        case "actor":
            return bool(event["actor"]["id"] == value)
        case "session":
            return bool(event["actor"].get("session") == value)
        case "action" | "outcome":
            return bool(event[field] == value)
    raise AssertionError(f"a question asks for {field}")


def answer(events: Iterable[dict[str, Any]], query: str) -> Events:
    wanted, _, unwanted = query.partition(" NOT ")
    return [
        event
        for event in events
        if all(is_match(event, term) for term in wanted.split())
        and not any(is_match(event, term) for term in unwanted.split())
    ]


def when(event: dict[str, Any]) -> tuple[Day, str]:
    """The day and the minute."""
    since = parse_time(event["time"]) - MONDAY_UNIX_US
    minutes = since % DAY_US // MINUTE_US
    return Day(since // DAY_US), f"{minutes // 60:02}:{minutes % 60:02}"


def of_the_intruder(events: Iterable[dict[str, Any]]) -> Events:
    return [
        event
        for event in events
        if event["actor"].get("session") == INTRUDER.session_id
        or event["actor"].get("credential") == INTRUDER.token_id
    ]


def test_every_event_is_valid_and_needs_nothing_filled_in(week: Events) -> None:
    reader = Reader(make_id=lambda: pytest.fail("no id"), now=lambda: pytest.fail("no time"))
    for event in week:
        read = reader.read(json.dumps(event, ensure_ascii=False).encode())
        assert read.filled == ()
        assert json.loads(read.event_json) == event


def test_an_event_is_about_as_large_as_the_design_takes_it_to_be(week: Events) -> None:
    reader = Reader(make_id=str, now=int)
    sizes = [len(reader.read_object(event).event_json) for event in week]
    assert 450 <= statistics.mean(sizes) <= 550


def test_the_week_has_some_thousand_events_in_order_of_time(week: Events) -> None:
    times = [parse_time(event["time"]) for event in week]
    assert 2000 <= len(week) <= 3000
    assert times == sorted(times)
    assert times[0] >= MONDAY_UNIX_US
    assert times[-1] < MONDAY_UNIX_US + 7 * DAY_US


def test_ids_are_unique_and_hold_the_time(week: Events) -> None:
    ids = [UUID(event["id"]) for event in week]
    assert len(set(ids)) == len(week)
    assert {id_.version for id_ in ids} == {7}
    assert [id_.int >> 80 for id_ in ids] == [parse_time(event["time"]) // 1000 for event in week]


@pytest.mark.parametrize("seed", CONTENTS)
def test_the_events_are_those_of_every_earlier_version(seed: int) -> None:
    week = list(bad_week(start_unix_us=MONDAY_UNIX_US, seed=seed))
    text = json.dumps(week, sort_keys=True, ensure_ascii=False)
    assert (len(week), hashlib.sha256(text.encode()).hexdigest()) == CONTENTS[seed]


def test_the_same_seed_makes_the_same_week() -> None:
    first, second = (list(bad_week(start_unix_us=MONDAY_UNIX_US, seed=3)) for _ in range(2))
    assert first == second


def test_another_seed_or_week_gives_other_ids() -> None:
    one, other_seed, other_week = (
        {event["id"] for event in bad_week(start_unix_us=start, seed=seed)}
        for start, seed in (
            (MONDAY_UNIX_US, 3),
            (MONDAY_UNIX_US, 4),
            (MONDAY_UNIX_US + 7 * DAY_US, 3),
        )
    )
    assert not one & (other_seed | other_week)


def test_a_week_that_does_not_open_on_a_monday_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="starts on a Monday"):
        bad_week(start_unix_us=MONDAY_UNIX_US + DAY_US, seed=0)


@pytest.mark.parametrize(
    ("now", "monday"),
    [
        ("2025-12-01T00:00:00", "2025-11-24"),
        ("2025-11-30T23:59:59", "2025-11-17"),
        ("2025-12-04T10:00:00", "2025-11-24"),
    ],
)
def test_the_week_before_is_over(now: str, monday: str) -> None:
    unix_us = int(datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp()) * 1_000_000
    start = datetime.fromtimestamp(week_before(unix_us) // 1_000_000, UTC)
    assert start.isoformat() == f"{monday}T00:00:00+00:00"


def test_all_addresses_are_for_documentation(week: Events) -> None:
    for address in {event["source"]["ip"] for event in week}:
        assert any(ip_address(address) in network for network in DOCUMENTATION), address


def test_nothing_looks_like_a_secret_or_a_person(week: Events) -> None:
    text = json.dumps(week)
    assert not re.search(r"\d{13}", text)
    assert not re.search(r"@|Bearer|BEGIN|AKIA|eyJ|ghp_|sk_live|wl_", text)


def test_everybody_of_the_company_and_of_the_shops_takes_part(week: Events) -> None:
    actors = {event["actor"]["id"] for event in week if event["outcome"] == "success"}
    assert actors >= {person.id for person in STAFF}
    assert {event["tenant"] for event in week} == {"tillwhistle"} | {s.tenant for s in SHOPS}


def test_what_the_ordinary_week_is_made_of(week: Events) -> None:
    actions = {event["action"] for event in week}
    assert actions >= {
        "mfa.verified", "password.reset_sent", "user.role_changed", "refund.created",
        "customer.viewed", "report.exported", "document.deleted", "service.deployed",
        "api_key.created", "api_key.rotated", "feature_flag.changed", "config.changed",
        "job.completed", "support.impersonation_started", "login.failed",
    }  # fmt: skip
    assert {event["outcome"] for event in week} == {"success", "failure", "denied", "unknown"}


def test_by_night_people_sleep_but_for_the_intruder(week: Events) -> None:
    inside = of_the_intruder(week)
    spray = answer(week, f"source:{INTRUDER.spray_network}")
    by_night = [
        event
        for event in week
        if event["actor"]["type"] == "user"
        and not "06:00" <= when(event)[1] <= "21:59"
        and event not in inside
        and event not in spray
    ]
    assert by_night == []


def test_the_key_actions_happen_at_their_minute(week: Events) -> None:
    inside = [
        f"{day.short} {clock} {event['action']}"
        for event in of_the_intruder(week)
        for day, clock in [when(event)]
    ]
    found = [key for key in inside if key in INTRUDER.key_actions]
    assert tuple(found) == INTRUDER.key_actions


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.query)
def test_a_question_finds_what_it_says(week: Events, question: Question) -> None:
    assert len(answer(week, question.query)) == question.finds


def test_the_pivot_address_is_the_intruders_alone(week: Events) -> None:
    inside = of_the_intruder(week)
    assert all(event in inside for event in answer(week, f"source:{INTRUDER.pivot_ip}"))
    assert {event["actor"]["id"] for event in inside} == {INTRUDER.actor_id}


def test_the_first_step_is_the_one_guess_that_needed_no_second_factor(week: Events) -> None:
    first = of_the_intruder(week)[0]
    assert first["action"] == "login.succeeded"
    assert first["source"]["ip"] == INTRUDER.entry_ip
    assert first["context"]["mfa"] == "exempt"
    (stopped,) = answer(week, f"source:{INTRUDER.spray_network} action:login.mfa_failed")
    assert stopped["actor"]["id"] == INTRUDER.guessed_only_id
    assert when(stopped) == (Day.TUESDAY, "23:09")


def test_the_promotion_was_made_on_behalf_of_the_administrator_with_an_old_ticket(
    week: Events,
) -> None:
    (exempted,) = answer(week, f"action:mfa.exempted target:{INTRUDER.actor_id}")
    denied, promoted, reverted = answer(
        week, f"action:user.role_changed target:{INTRUDER.actor_id}"
    )
    assert INTRUDER.reused_ticket in exempted["reason"]
    assert denied["outcome"] == "denied"
    assert promoted["actor"]["on_behalf_of"]["id"] == INTRUDER.impersonated_id
    assert promoted["reason"] == f"ticket {INTRUDER.reused_ticket}"
    assert promoted["changes"] == [{"path": "/role", "before": "support", "after": "finance_admin"}]
    assert reverted["changes"] == [{"path": "/role", "before": "finance_admin", "after": "support"}]


def test_the_export_is_of_all_shops(week: Events) -> None:
    (export,) = answer(week, f"source:{INTRUDER.pivot_ip} action:customer.exported")
    assert when(export) == (Day.THURSDAY, "03:12")
    assert export["context"]["records"] == INTRUDER.exported_records
    assert export["actor"]["credential"] == INTRUDER.token_id
    assert {target["id"] for target in export["targets"]} == {INTRUDER.export_id} | {
        shop.tenant for shop in SHOPS
    }


def test_the_refunds_stay_below_the_approval_and_are_partly_recalled(week: Events) -> None:
    account = INTRUDER.payout_account_id
    sent = answer(week, f"action:refund.created target:{account} outcome:success")
    amounts = tuple(event["changes"][0]["after"] for event in sent)
    assert amounts == INTRUDER.refund_amounts_cents
    assert max(amounts) < 50_000
    assert sum(amounts) == 441_000
    recalled = answer(week, f"action:refund.recalled target:{account}")
    assert [event["outcome"] for event in recalled] == ["failure"] * 3 + ["success"] * 6


def test_after_the_lock_out_the_intruder_gets_nothing_more(week: Events) -> None:
    (locked,) = answer(week, f"action:user.locked target:{INTRUDER.actor_id}")
    assert when(locked) == (Day.FRIDAY, "09:24")
    after = [event for event in of_the_intruder(week) if event["time"] > locked["time"]]
    assert {event["outcome"] for event in after} == {"denied"}
    assert when(after[-1]) == (Day.FRIDAY, "09:38")


def test_the_real_owner_of_the_account_works_in_the_office_meanwhile(week: Events) -> None:
    inside = of_the_intruder(week)
    hers = [
        event
        for event in answer(week, f"actor:{INTRUDER.actor_id}")
        if event not in inside and when(event)[0] in (Day.WEDNESDAY, Day.THURSDAY)
    ]
    assert len(hers) > 8
    assert {event["source"]["ip"] for event in hers} == {"192.0.2.117"}


def test_it_was_found_by_somebody_of_finance_and_closed_on_sunday(week: Events) -> None:
    (ticket,) = answer(week, "action:ticket.created target:SEC-31")
    assert ticket["actor"]["id"] == INTRUDER.discovered_by_id
    assert when(ticket) == (Day.FRIDAY, "09:07")
    declared, closed = (
        answer(week, f"action:incident.{word} target:{INTRUDER.incident_id}")[0]
        for word in ("declared", "closed")
    )
    assert when(declared) == (Day.FRIDAY, "09:21")
    assert when(closed) == (Day.SUNDAY, "16:40")
