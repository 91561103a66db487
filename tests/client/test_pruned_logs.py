"""A monitor of a log that pruned entries: they are passed over once, and an event must say so."""

from dataclasses import replace

import msgspec
import pytest

from ledger_client.audit.monitor import Progress
from ledger_client.audit.tree_replay import ReplayState
from ledger_client.messages import Request, Response
from ledger_core.event.canonical import encode_event, format_leaf
from ledger_core.event.model import Actor, Event
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import VerificationError
from tests.client.auditing import Auditor, audit
from tests.client.hosts import ENTRIES_SINCE_UNIX_US, Host, entries, entry, event_id
from tests.client.trees import SmallLog

MINIMUM = 512
EVENT_INDEX = 700


def record(number: int, *, minimum: object = MINIMUM, by: str = "ledger") -> bytes:
    """The leaf of an event that records a pruning."""
    time = format_time(ENTRIES_SINCE_UNIX_US + number * 10**6)
    event = Event(
        id=event_id(number),
        time=time,
        actor=Actor(id="root", type="operator"),
        action="ledger.retention.pruned",
        outcome="success",
        context={"minimum_index": minimum},
    )
    return format_leaf(event_json=encode_event(event), by=by, received_time=time)


def log_with(leaf: bytes) -> SmallLog:
    return SmallLog(
        [*entries(EVENT_INDEX), leaf, *(entry(n) for n in range(EVENT_INDEX + 1, 1100))]
    )


def prune(auditor: Auditor, minimum: int = MINIMUM) -> None:
    """Have the host answer 410 for the bundles below an index, as a service does."""

    def answer(request: Request, response: Response) -> Response:
        place = request.target.removeprefix("/tile/entries/")
        if place == request.target or int(place[:3]) * 256 >= minimum:
            return response
        problem = {
            "type": "/v1/problems#pruned",
            "title": "Pruned",
            "status": 410,
            "detail": "the entries were pruned",
            "limit": minimum,
        }
        return Response(status=410, body=msgspec.json.encode(problem))

    auditor.host.lie = answer


def run_round(auditor: Auditor) -> list[str]:
    """One round; what the monitor remarks about entries."""
    auditor.host.run(auditor.monitor.fetch_head(auditor.now))
    remarks = []
    while auditor.monitor.has_work:
        remarks.append(auditor.host.run(auditor.monitor.check_entries()))
    return [remark for remark in remarks if remark]


def test_a_new_monitor_begins_behind_the_pruned_entries() -> None:
    auditor = audit(Host(log_with(record(EVENT_INDEX)), 1000))
    prune(auditor)
    assert run_round(auditor) == [
        "it pruned the entries 0 to 511 before this monitor had checked them; an event of the log "
        "must say so"
    ]
    assert auditor.checked == 1000 - MINIMUM
    state = auditor.monitor.progress.rebuilt
    assert (state.unseen, state.claim) == (MINIMUM, None)
    auditor.host.size = 1100
    assert run_round(auditor) == []
    assert auditor.monitor.progress.rebuilt.entries_checked == 1100


def test_a_monitor_that_had_checked_them_notices_nothing() -> None:
    auditor = audit(Host(log_with(record(EVENT_INDEX)), 600))
    assert run_round(auditor) == []
    prune(auditor)
    auditor.host.size = 1000
    assert run_round(auditor) == []
    assert auditor.checked == 1000


def test_one_that_was_behind_says_which_it_never_saw() -> None:
    auditor = audit(Host(log_with(record(EVENT_INDEX)), 300))
    run_round(auditor)
    prune(auditor)
    auditor.host.size = 1000
    (remark,) = run_round(auditor)
    assert remark.startswith("it pruned the entries 300 to 511")
    assert auditor.checked == 1000 - (MINIMUM - 300)


@pytest.mark.parametrize(
    "leaf",
    [
        entry(EVENT_INDEX),
        record(EVENT_INDEX, minimum=256),
        record(EVENT_INDEX, minimum="512"),
        record(EVENT_INDEX, by="billing-api"),
    ],
)
@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_log_without_an_event_about_it_withholds(leaf: bytes, is_restarted: bool) -> None:
    auditor = audit(Host(log_with(leaf), 1000))
    prune(auditor)
    assert len(run_round(auditor)) == 1
    assert auditor.monitor.progress.rebuilt.claim is not None
    if is_restarted:
        auditor = auditor.restarted()
        prune(auditor)
    # The head was fetched before the claim, so the event may be behind it: the next one decides.
    auditor.host.size = 1100
    for _ in range(2):
        with pytest.raises(VerificationError, match="the log withholds the entries below 512"):
            run_round(auditor)


@pytest.mark.parametrize("minimum", [0, 256 + 1, 1024, 4096])
def test_a_claim_that_can_not_be_true_is_a_refusal(minimum: int) -> None:
    auditor = audit(Host(log_with(record(EVENT_INDEX)), 1000))
    prune(auditor, MINIMUM)
    claimed = auditor.host.lie

    def answer(request: Request, response: Response) -> Response:
        found = claimed(request, response)
        if found.status != 410:
            return found
        problem = {**msgspec.json.decode(found.body), "limit": minimum}
        return replace(found, body=msgspec.json.encode(problem))

    auditor.host.lie = answer
    with pytest.raises(VerificationError, match=r"the log withholds tile/entries/000"):
        run_round(auditor)


def test_tiles_of_another_tree_are_not_taken_for_the_pruned_entries() -> None:
    auditor = audit(Host(log_with(record(EVENT_INDEX)), 1000))
    prune(auditor)
    claimed = auditor.host.lie

    def answer(request: Request, response: Response) -> Response:
        found = claimed(request, response)
        is_tile = request.target.startswith("/tile/1/000")
        return replace(found, body=bytes(len(found.body))) if is_tile else found

    auditor.host.lie = answer
    with pytest.raises(VerificationError, match="do not have the root hash"):
        run_round(auditor)


def test_a_state_without_a_claim_is_written_as_before() -> None:
    encoded = msgspec.json.encode(Progress(rebuilt=ReplayState(size=256, entries_checked=300)))
    assert b"claim" not in encoded
    assert b"unseen" not in encoded
