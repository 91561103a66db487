"""Real events of eight products, asked for by every dimension and held against plain filters."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from ledger_client.collect.importers import load_format, read_records
from ledger_core.event.model import EventError
from ledger_core.event.secrets import mask
from ledger_core.query.fields import FOLDED
from tests.service.check_log import check_ledger
from tests.service.serving import Ledger, serving_new

FILES = {
    "azure": "azure_activity",
    "cloudtrail": "aws_cloudtrail",
    "gcp": "gcp_audit",
    "github": "github",
    "gsuite": "gsuite_activityevent",
    "kubernetes": "kubernetes",
    "okta": "okta",
    "teleport": "gravitational_teleport",
}
VALUES_MAX = 40
"""Of each field: half of them the most frequent, half the rarest."""

Events = dict[int, dict[str, Any]]
Read = Callable[[dict[str, Any]], list[Any]]

DIMENSIONS: dict[str, Read] = {
    "actor": lambda e: [e["actor"]["id"]],
    "actor.type": lambda e: [e["actor"].get("type")],
    "actor.on_behalf_of": lambda e: [e["actor"].get("on_behalf_of", {}).get("id")],
    "session": lambda e: [e["actor"].get("session")],
    "credential": lambda e: [e["actor"].get("credential")],
    "action": lambda e: [e["action"]],
    "outcome": lambda e: [e["outcome"]],
    "target": lambda e: [target["id"] for target in e.get("targets", ())],
    "target.type": lambda e: [target.get("type") for target in e.get("targets", ())],
    "source": lambda e: [e.get("source", {}).get("ip")],
    "service": lambda e: [e.get("source", {}).get("service")],
    "tenant": lambda e: [e.get("tenant")],
    "request": lambda e: [e.get("context", {}).get("request_id")],
    "id": lambda e: [e["id"]],
    "field": lambda e: [change["path"] for change in e.get("changes", ())],
    "actor.name": lambda e: [e["actor"].get("name")],
    "target.name": lambda e: [target.get("name") for target in e.get("targets", ())],
    "user_agent": lambda e: [e.get("source", {}).get("user_agent")],
    "port": lambda e: [e.get("source", {}).get("port")],
    "recorder": lambda e: [e.get("recorder", {}).get("instance")],
    "before": lambda e: changed(e, "before"),
    "after": lambda e: changed(e, "after"),
}


def changed(event: dict[str, Any], side: str) -> list[Any]:
    """The changed values of an event that are texts."""
    values = [change.get(side) for change in event.get("changes", ())]
    return [value for value in values if isinstance(value, str)]


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, shared_dir: Path
) -> Iterator[tuple[Ledger, Events]]:
    """All samples in one ledger, and what it holds by index."""
    with serving_new(tmp_path_factory.mktemp("samples")) as ledger:
        for name, file in FILES.items():
            format_ = load_format(name, "keep")
            events: list[dict[str, Any]] = []
            for record in read_records(shared_dir / "samples" / f"{file}.jsonl"):
                try:
                    events += map(mask, format_.map(record.raw))
                except EventError:
                    continue  # a statistic, which tests/client/importing has judged
            # One thing may stand in a sample twice, and is one event.
            unique = list({event["id"]: event for event in events}.values())
            assert ledger.append(*unique, batch=True).status == 200
        size = ledger.ask("/v1/log").json()["tree_size"]
        stored = {index: ledger.ask(f"/v1/events/{index}").json()["event"] for index in range(size)}
        yield ledger, stored
        check_ledger(ledger)


def search(ledger: Ledger, q: str) -> list[int]:
    found: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        target = urlencode({"q": q, "limit": 1000, "order": "oldest", **cursor})
        answer = ledger.ask(f"/v1/events?{target}")
        assert answer.status == 200, (q, answer.text)
        page = answer.json()
        found += [each["index"] for each in page["events"]]
        if "cursor" not in page:
            assert page["total"] == len(found)
            return found
        cursor = {"cursor": page["cursor"]}


def quoted(value: str) -> str:
    """A value as the query language takes any text."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.shared
@pytest.mark.parametrize("field", DIMENSIONS)
def test_each_value_of_a_dimension_finds_the_events_that_have_it(
    served: tuple[Ledger, Events], field: str
) -> None:
    ledger, events = served
    wanted: dict[str, list[int]] = defaultdict(list)
    for index, event in events.items():
        found = {str(value) for value in DIMENSIONS[field](event) if value is not None}
        for value in {value.casefold() if field in FOLDED else value for value in found}:
            wanted[value].append(index)
    by_count = sorted(wanted, key=lambda value: (-len(wanted[value]), value))
    for value in [*by_count[: VALUES_MAX // 2], *by_count[-VALUES_MAX // 2 :]]:
        asked = value if field == "port" else quoted(value)
        assert search(ledger, f"{field}:{asked}") == wanted[value], value


@pytest.mark.shared
def test_a_type_and_an_id_find_the_events_of_that_target(served: tuple[Ledger, Events]) -> None:
    ledger, events = served
    pairs = {
        (target["type"], target["id"]): None
        for event in events.values()
        for target in event.get("targets", ())
        if "type" in target
    }
    for of_type, of_id in list(pairs)[:VALUES_MAX]:
        found = search(ledger, f"target:{quoted(f'{of_type}/{of_id}')}")
        assert found == [
            index
            for index, event in events.items()
            if any(
                (target.get("type"), target["id"]) == (of_type, of_id)
                or target["id"] == f"{of_type}/{of_id}"
                for target in event.get("targets", ())
            )
        ]


@pytest.mark.shared
def test_words_of_user_agents_and_late_receipts_are_found(served: tuple[Ledger, Events]) -> None:
    ledger, events = served
    agents = {
        index: words(event.get("source", {}).get("user_agent", ""))
        for index, event in events.items()
    }
    for word in ("aws", "chrome", "kubectl", "mozilla", "terraform"):
        held = [index for index, found in agents.items() if word in found]
        assert search(ledger, f"user_agent:{word}") == held
        assert set(search(ledger, word)) >= set(held)
    samples = [i for i, event in events.items() if not event["action"].startswith("ledger.")]
    assert search(ledger, "late:>1h received.by:*") == samples
    assert search(ledger, "late:<0") == []


def words(text: str) -> list[str]:
    """The words of a text in ASCII."""
    return "".join(char if char.isalnum() else " " for char in text.lower()).split()


@pytest.mark.shared
def test_networks_prefixes_and_days_find_what_lies_in_them(
    served: tuple[Ledger, Events],
) -> None:
    ledger, events = served
    addresses = {
        index: ip_address(event["source"]["ip"])
        for index, event in events.items()
        if "ip" in event.get("source", {})
    }
    assert addresses
    for address in sorted({str(each) for each in addresses.values()})[:VALUES_MAX]:
        network = ip_network(f"{address}/{16 if ':' not in address else 48}", strict=False)
        inside = [index for index, each in addresses.items() if each in network]
        assert search(ledger, f"source:{network}") == inside
    for prefix in sorted({event["action"].split(".")[0] for event in events.values()}):
        begins = [i for i, event in events.items() if event["action"].startswith(f"{prefix}.")]
        if begins:
            assert search(ledger, f"action:{prefix}.*") == begins
    for day in sorted({event["time"][:10] for event in events.values()})[:VALUES_MAX]:
        on = [index for index, event in events.items() if event["time"].startswith(day)]
        assert search(ledger, f"time:{day}") == on
        failed = [index for index in on if events[index]["outcome"] != "success"]
        assert search(ledger, f"time:{day} NOT outcome:success") == failed
