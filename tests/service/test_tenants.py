"""A token bound to a tenant sees that tenant's events, by whichever way it asks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest

from ledger.store.id_rows import tenant_id_key
from tests.service.check_log import check_ledger
from tests.service.serving import QUICK, Answer, Ledger, event, serving_new
from tests.service.streams import lines_of

ACME, OTHER, NONE = "acme", "other", None
OWN_EVENTS = 20 + 3
"""What the tenant has: 20 of the fixture's, and the making of its three tokens."""

SECRETS = ("u_other", "198.51.100.66", "s_other", "doc_other", "other_reason", "other.action")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """The events of two tenants and of none, in turn, that share what they can."""
    with serving_new(tmp_path_factory.mktemp("tenants")) as ledger:
        events = []
        for number in range(60):
            tenant = (ACME, OTHER, NONE)[number % 3]
            name = "acme" if tenant == ACME else "other"
            events.append(
                event(
                    tenant=tenant,
                    actor={"id": f"u_{name}", "session": f"s_{name}"},
                    action=f"{name}.action",
                    targets=[{"id": "doc_shared"}, {"id": f"doc_{name}"}],
                    source={"ip": "203.0.113.5" if tenant == ACME else "198.51.100.66"},
                    reason=f"{name}_reason",
                )
            )
        assert ledger.append(*events).status == 200
        yield ledger
        check_ledger(ledger)


def ask(ledger: Ledger, target: str) -> Answer:
    return ledger.ask(target, token="read acme")


def search(ledger: Ledger, q: str, **parameters: Any) -> Any:
    answer = ask(ledger, f"/v1/events?{urlencode({'q': q, **parameters})}")
    assert answer.status == 200, answer.text
    return answer.json()


def check_only_acme(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


CRAFTED = (
    "",
    "tenant:other",
    "tenant:other OR tenant:acme",
    "NOT tenant:acme",
    "NOT (tenant:acme)",
    "tenant:acme,other",
    "tenant:*",
    "tenant:o*",
    "actor:u_other",
    "actor:u_acme OR actor:u_other",
    "NOT actor:u_acme",
    "(actor:u_acme) OR (actor:u_other)",
    "source:0.0.0.0/0",
    "source:198.51.100.66",
    "action:other.*",
    "target:doc_shared",
    "other_reason",
    "since:2000-01-01",
    "index:0..1000",
    "received:2000-01-01..",
)


@pytest.mark.parametrize("q", CRAFTED)
def test_no_query_finds_what_is_not_the_tenants(ledger: Ledger, q: str) -> None:
    everything = search(
        ledger,
        q,
        limit=1000,
        facets="actor,action,source,tenant,outcome,target.type",
        histogram="day",
    )
    assert all(each["event"]["tenant"] == ACME for each in everything["events"])
    assert everything["total"] == len(everything["events"]) <= OWN_EVENTS
    facets = json.dumps(everything["facets"])
    check_only_acme(facets)
    for facet in everything["facets"]:
        assert sum(each["count"] for each in facet["values"]) <= everything["total"]
        assert facet["others"] == 0
    buckets = everything["histogram"]["buckets"]
    assert sum(bucket["count"] for bucket in buckets) == everything["total"]
    assert search(ledger, q, limit=0)["total"] == everything["total"]


@pytest.mark.parametrize("q", CRAFTED)
@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_no_export_holds_what_is_not_the_tenants(ledger: Ledger, q: str, format_: str) -> None:
    answer = ask(ledger, f"/v1/export?{urlencode({'q': q, 'format': format_})}")
    assert answer.status == 200
    check_only_acme(answer.text)
    # Besides the rows, JSON lines end with a trailer, and CSV begins with the names of its columns.
    assert len(answer.text.splitlines()) == search(ledger, q, limit=0)["total"] + 1


def test_an_event_of_another_tenant_is_refused_by_index_id_and_around(ledger: Ledger) -> None:
    others = [
        each
        for each in ledger.ask("/v1/events?limit=1000").json()["events"]
        if each["event"].get("tenant") != ACME
    ]
    assert len(others) > 20
    for each in others:
        refs = {each["index"]: "wrong-tenant", each["event"]["id"]: "no-event"}
        for ref, slug in refs.items():
            for target in (f"/v1/events/{ref}", f"/v1/events/{ref}/around"):
                assert ask(ledger, target).slug == slug
        assert search(ledger, f"id:{each['event']['id']}")["events"] == []
        assert search(ledger, f"index:{each['index']}")["total"] == 0


def test_around_and_timelines_stay_within_the_tenant(ledger: Ledger) -> None:
    own = search(ledger, "", limit=1)["events"][0]
    for target in (
        f"/v1/events/{own['index']}/around?minutes=10000&limit=1000",
        "/v1/actors/u_acme/timeline?limit=1000",
        "/v1/actors/doc_shared/timeline?limit=1000&facets=actor,action",
        "/v1/actors/u_other/timeline?limit=1000&histogram=day",
    ):
        answer = ask(ledger, target)
        assert answer.status == 200
        assert answer.json()["total"] == len(answer.json()["events"]) <= 20
        check_only_acme(json.dumps(answer.json()["events"]))
        check_only_acme(json.dumps(answer.json().get("facets", [])))


def test_a_source_that_others_alone_used_was_never_seen(ledger: Ledger) -> None:
    answer = ask(ledger, "/v1/sources/198.51.100.66/seen").json()
    assert (answer["total"], "first" in answer, answer["actions"]["values"]) == (0, False, [])
    everywhere = ask(ledger, f"/v1/sources/{quote('0.0.0.0/0', safe='')}/seen")
    assert everywhere.json()["total"] == 20
    check_only_acme(everywhere.text)


def test_a_cursor_of_another_token_opens_nothing(ledger: Ledger) -> None:
    cursor = ledger.ask("/v1/events?q=target:doc_shared&limit=3").json()["cursor"]
    answer = ask(ledger, f"/v1/events?{urlencode({'q': 'target:doc_shared', 'cursor': cursor})}")
    assert answer.slug == "cursor"
    own = search(ledger, "target:doc_shared", limit=3)["cursor"]
    back = ledger.ask(f"/v1/events?{urlencode({'q': 'target:doc_shared', 'cursor': own})}")
    assert back.slug == "cursor"


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_a_stream_shows_the_tenants_events_alone(ledger: Ledger, accept: str) -> None:
    with lines_of(ledger, "/v1/events/stream?from=0", token="read acme", accept=accept) as lines:
        text = ""
        while text.count('"tenant":"acme"') < 20:
            text += next(lines)
    check_only_acme(text)


def test_bundles_are_not_a_way_around(ledger: Ledger) -> None:
    assert ask(ledger, "/tile/entries/000").slug in {"wrong-tenant", "no-tile"}


def test_the_steps_of_a_plan_are_not_explained(ledger: Ledger) -> None:
    assert ask(ledger, "/v1/events?q=actor:u_other&explain=1").slug == "wrong-tenant"


@pytest.mark.parametrize("secrets", ["refuse", "mask"])
def test_events_of_tenants_with_one_id_are_all_kept_and_found(tmp_path: Path, secrets: str) -> None:
    taken = event(tenant=OTHER)
    text = "the password is password=Sommer2026!x" if secrets == "mask" else "a reason"
    others = [event(tenant=tenant, id=taken["id"], reason=text) for tenant in (ACME, NONE)]
    with serving_new(tmp_path, msgspec.structs.replace(QUICK, secrets=secrets)) as ledger:
        for each in (taken, *others, *others):
            assert ledger.append(each).status == 200
        # In one request too, and without a second event for a repetition.
        assert ledger.append(*others, event()).status == 200
        for q in (f"id:{taken['id']}", f"id:{taken['id'][:20]}*"):
            page = ledger.ask(f"/v1/events?{urlencode({'q': q})}").json()
            assert (page["total"], page["complete"]) == (3, True)
            assert {row["event"].get("tenant") for row in page["events"]} == {ACME, OTHER, NONE}
        own = search(ledger, f"id:{taken['id']}")
        assert [row["event"]["tenant"] for row in own["events"]] == [ACME]
        check_ledger(ledger)


def test_no_id_of_an_event_is_the_key_of_another_tenants_event() -> None:
    assert len(tenant_id_key(bytes(16), ACME)) > len(bytes(16))
