"""The decision to prune: an event in the log, before anything is removed.

The decision and its event are written to `DIR/pruning.json` first, then to the outbox, which the
running service appends. A crash between the two leaves a decision whose event is not in the log:
the same command again puts the same event into the outbox, and an id is logged once.

A decision removes nothing, and can be taken back. `removal` acts on it when a published head that
a quorum of witnesses cosigned covers its event.
"""

from contextlib import closing
from typing import Any, Final, Literal, NamedTuple

import msgspec

from ledger.object_storage.open_log import open_log
from ledger.retention.planning import Plan, published_size
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.operator_events import operator_event, record_act
from ledger.service.policy_file import read_policy
from ledger.service.pruning_journal import (
    PruningRecord,
    end_decision,
    read_decision,
    write_decision,
)
from ledger.store.log import LogStore
from ledger.store.token_events import SERVICE_NAME
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.errors import UnavailableError, VerificationError

PRUNED: Final = "ledger.retention.pruned"
CANCELLED: Final = "ledger.retention.cancelled"
TENANTS_NAMED: Final = 100
TENANTS_BYTES_MAX: Final = 32_768
"""Of the tenants in the event, those with the most entries: a leaf has 65,535 bytes at most."""

REASON_CHARS_MAX: Final = 1000

Stage = Literal["waiting", "logged", "covered"]
"""Its event waits for the service; is in the log; is covered by a published head of a quorum."""


class Decision(NamedTuple):
    """A decision that isn't carried out yet, its stage, and the index of its event."""

    record: PruningRecord
    stage: Stage
    event_index: int | None


class _Context(msgspec.Struct):
    minimum_index: int


class _Event(msgspec.Struct):
    id: str
    action: str
    context: _Context


class _Target(msgspec.Struct):
    id: str


class _Cancelled(msgspec.Struct):
    action: str
    targets: tuple[_Target, ...] = ()


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_cancelled = msgspec.json.Decoder(_Cancelled).decode


def decide(paths: DirectoryPaths, plan: Plan, *, reason: str, now_unix_us: int) -> PruningRecord:
    """Decide to prune as a plan says.

    Raises: UnavailableError when another decision is not carried out yet, or nothing may go.
    """
    if read_decision(paths) is not None:
        raise UnavailableError(
            "a pruning is decided already: ledger retention status shows it, remove carries it "
            "out, cancel takes it back"
        )
    if not plan.entries:
        raise UnavailableError("no entry may be pruned: ledger retention plan says why")
    with closing(open_log(paths.log)) as log:
        origin = log.origin()
    event = operator_event(
        PRUNED,
        now_unix_us,
        targets=[("ledger.log", origin)],
        context={
            "reason": reason,
            "minimum_index_before": plan.minimum_before,
            "minimum_index": plan.minimum_after,
            "entries": plan.entries,
            "oldest": plan.oldest,
            "newest": plan.newest,
            "tenants": _named_tenants(plan),
            "tenants_total": len(plan.tenants),
            "tree_size": plan.tree_size,
            "root_hash": plan.root_hash,
            "policy_sha256": plan.policy_sha256,
            "approved_by": plan.policy.approved_by,
            "approved_on": plan.policy.approved_on.isoformat(),
        },
    )
    record = PruningRecord(
        event_id=_decode_event(event).id,
        event_json=event.decode(),
        minimum_index=plan.minimum_after,
    )
    write_decision(paths, record)
    enqueue_decision(paths, record)
    return record


def enqueue_decision(paths: DirectoryPaths, record: PruningRecord) -> None:
    """Put the event of a decision into the outbox. Raises: as `open_tokens`."""
    with closing(open_tokens(paths)) as access:
        waiting = {event for _, event in access.outbox()}
        if record.event_json.encode() not in waiting:
            access.enqueue(record.event_json.encode())


def read_stage(paths: DirectoryPaths) -> Decision | None:
    """The decision that isn't carried out yet, and its stage; None when there is none.

    Raises: VerificationError when the log has another event under its id, or says that the decision
    was taken back: somebody put its file back. Cost: reads the entries since the decision.
    """
    record = read_decision(paths)
    if record is None:
        return None
    with closing(open_log(paths.log)) as log:
        if _was_cancelled(paths, log, record):
            raise VerificationError(
                f"the log says that the pruning {record.event_id} was taken back, and "
                f"{paths.pruning} is there: ledger retention cancel {paths.root} deletes it"
            )
        index = log.index_of(bytes.fromhex(record.event_id.replace("-", "")))
        if index is None:
            return Decision(record, "waiting", None)
        leaf = log.leaf(index)
        parsed = None if leaf is None else parse_leaf(leaf)
        if parsed is None or parsed.received.by != SERVICE_NAME:
            raise VerificationError(f"entry {index} is not the event of the pruning")
        logged = _decode_event(parsed.event_json)
        if (logged.action, logged.context.minimum_index) != (PRUNED, record.minimum_index):
            raise VerificationError(f"entry {index} is the event of another pruning")
        is_covered = published_size(log, read_policy(paths).policy) > index
        return Decision(record, "covered" if is_covered else "logged", index)


def cancel(paths: DirectoryPaths, *, reason: str) -> PruningRecord:
    """Take back a decision before anything was removed; the log gets an event of this too.

    Raises: UnavailableError when there is none, or bytes are being removed.
    """
    record = read_decision(paths)
    if record is None:
        raise UnavailableError("no pruning is decided")
    if record.has_begun:
        raise UnavailableError(
            "entries are being removed: ledger retention remove again does the rest"
        )
    with closing(open_log(paths.log)) as log:
        was_cancelled = _was_cancelled(paths, log, record)
    if not was_cancelled:
        # The event first: after a crash the same command again deletes the file.
        record_act(
            paths,
            CANCELLED,
            targets=[("ledger.event", record.event_id)],
            context={"reason": reason, "minimum_index": record.minimum_index},
        )
    end_decision(paths)
    return record


def _was_cancelled(paths: DirectoryPaths, log: LogStore, record: PruningRecord) -> bool:
    """Whether the log or the outbox has an event that a decision was taken back."""
    with closing(open_tokens(paths)) as access:
        if any(_cancels(event, record) for _, event in access.outbox()):
            return True
    index = log.index_of(bytes.fromhex(record.event_id.replace("-", "")))
    if index is None:
        return False
    with log.environment.read() as snapshot:
        start = max(index, log.minimum_index)
        for leaves in log.leaves_between(snapshot, start, log.head().tree_size):
            for leaf in leaves:
                if CANCELLED.encode() in leaf:
                    parsed = parse_leaf(leaf)
                    # Nobody but the service logs such an action; its name says so once more.
                    is_own = parsed.received.by == SERVICE_NAME
                    if is_own and _cancels(parsed.event_json, record):
                        return True
    return False


def _cancels(event_json: bytes, record: PruningRecord) -> bool:
    try:
        event = _decode_cancelled(event_json)
    except msgspec.MsgspecError:
        return False
    return event.action == CANCELLED and record.event_id in {each.id for each in event.targets}


def _named_tenants(plan: Plan) -> list[dict[str, Any]]:
    """The tenants with the most removed entries, as many as the event has room for."""
    most = sorted(plan.tenants.items(), key=lambda row: -row[1])[:TENANTS_NAMED]
    named: list[dict[str, Any]] = []
    room = TENANTS_BYTES_MAX
    for name, count in most:
        room -= len(msgspec.json.encode(name))
        if room < 0:
            break
        named.append({"tenant": name, "entries": count})
    return named
