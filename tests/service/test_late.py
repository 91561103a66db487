"""An event whose own time is far from that of its receipt is marked."""

import pytest

from ledger_client import LedgerClient
from ledger_core.event.times import late_s
from tests.service.serving import Ledger, event

RECEIVED = "2026-11-25T03:03:38.123456Z"


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("2026-11-25T02:03:36.123456Z", 3602),
        ("2026-11-25T02:03:38.123456Z", None),
        ("2026-11-25T03:59:59.000000Z", None),
        ("2026-11-25T04:03:38.123456Z", None),
        ("2026-11-25T05:03:38.123456Z", -7200),
        ("1970-01-01T00:00:00.000000Z", 1795575818),
    ],
)
def test_an_event_over_an_hour_from_its_receipt_is_late(time: str, seconds: int | None) -> None:
    assert late_s(time, RECEIVED) == seconds


def test_a_late_event_is_marked_in_a_search_and_alone(ledger: Ledger) -> None:
    old, new = event(time="2001-02-03T04:05:06Z"), event(time=None)
    ledger.append(old, new, query="?wait=witnessed")
    for each, is_late in ((old, True), (new, False)):
        (found,) = ledger.ask(f"/v1/events?q=id:{each['id']}").json()["events"]
        single = ledger.ask(f"/v1/events/{each['id']}").json()
        assert found.get("late_s") == single.get("late_s")
        assert ("late_s" in found) is is_late
        if is_late:
            assert found["late_s"] > 24 * 365 * 86_400
    # A client holds the mark against the leaf.
    with LedgerClient(ledger.url, ledger.tokens["admin"], policy=ledger.policy) as client:
        assert client.event(old["id"]).event.id == old["id"]
