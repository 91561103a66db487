"""`ledger retention`: which old entries may go, the decision, and their removal."""

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import msgspec

from ledger.cli.folders import LEDGER, directory_of
from ledger.cli.options import progress_bar
from ledger.object_storage.open_log import open_log
from ledger.query.engine import QueryEngine
from ledger.query.open_index import open_index
from ledger.retention.decision import (
    REASON_CHARS_MAX,
    Decision,
    cancel,
    decide,
    enqueue_decision,
    read_stage,
)
from ledger.retention.legal_holds import (
    HOLD_TYPE,
    NAME_PATTERN,
    LegalHold,
    first_held,
    known_holds,
    read_holds,
    write_holds,
)
from ledger.retention.planning import Plan, make_plan
from ledger.retention.removal import remove_entries
from ledger.runtime.operator_name import operator_name
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.operator_events import record_act
from ledger.service.pruning_journal import check_pruned
from ledger.store.hold_events import (
    ADDED,
    HELD_HASH,
    RELEASED,
    hash_held,
    read_waiting_hold,
)
from ledger_client.cli.app import NotFoundError
from ledger_client.cli.console import (
    counted,
    json_option,
    note,
    print_fields,
    print_json,
    print_line,
)
from ledger_client.runtime.clock import unix_us
from ledger_core.event.times import format_time
from ledger_core.query.ast import Is, format_query, resolve
from ledger_core.query.parser import parse_query
from ledger_core.query.scanner import QueryError

TENANTS_SHOWN = 20


def _reason(_context: click.Context, _option: click.Parameter, text: str) -> str:
    if not text.strip() or len(text) > REASON_CHARS_MAX:
        raise click.BadParameter(f"want 1 to {REASON_CHARS_MAX} characters, got {len(text)}")
    return text


reason_option = click.option(
    "--reason", required=True, callback=_reason, help="Why; it stands in the event."
)


@click.group("retention")
def command() -> None:
    """Remove old entries for good, as DIRECTORY/retention.toml says.

    plan shows what may go. apply decides it, which is an event and removes nothing. remove then
    removes the bytes, while the service is stopped. A legal hold keeps what it names, and
    everything behind it.
    """


@command.command("plan")
@directory_of(LEDGER)
@json_option
def plan_(directory: Path, as_json: bool) -> None:
    """Show what may be pruned today, counted, and what keeps the rest. Nothing is changed."""
    plan = _plan(DirectoryPaths(directory), as_json=as_json)
    if as_json:
        print_json(plan)
        return
    _show(plan)
    if plan.entries:
        note(f"next: ledger retention apply {directory} --reason TEXT --yes")


@command.command("apply")
@directory_of(LEDGER)
@reason_option
@click.option("--yes", "is_sure", is_flag=True, help="Decide it. Without: show the plan.")
@json_option
def apply(directory: Path, reason: str, is_sure: bool, as_json: bool) -> int:
    """Decide to prune what the plan shows: an event, also while the service runs.

    Nothing is removed yet. Run again, it only makes sure that the event reaches the log.
    """
    paths = DirectoryPaths(directory)
    decision = read_stage(paths)
    if decision is not None and is_sure:
        if decision.stage == "waiting":
            enqueue_decision(paths, decision.record)
        _show_decision(directory, decision, as_json=as_json)
        return 0
    plan = _plan(paths, as_json=as_json)
    if not is_sure:
        if as_json:
            print_json(plan)
        else:
            _show(plan)
        note("nothing was decided: --yes decides it")
        return 1
    decide(paths, plan, reason=reason, now_unix_us=unix_us())
    if not as_json:
        _show(plan)
    _show_decision(directory, read_stage(paths), as_json=as_json)
    return 0


@command.command("status")
@directory_of(LEDGER)
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show the decision that is not carried out yet, and what comes next."""
    _show_decision(directory, read_stage(DirectoryPaths(directory)), as_json=as_json)


@command.command("remove")
@directory_of(LEDGER)
@json_option
def remove(directory: Path, as_json: bool) -> None:
    """Remove the entries of the decision from every file of DIRECTORY. Stop the service first.

    Run it again if it was interrupted: until it has ended the service does not start.
    """
    with progress_bar("entries", is_quiet=as_json) as progress:
        done = remove_entries(DirectoryPaths(directory), now_unix_us=unix_us(), progress=progress)
    if as_json:
        print_json(done._asdict())
        return
    print_line(f"the entries below index {done.minimum_index:,} are removed")
    print_line(f"{done.freed_bytes:,} bytes are free again")
    note("next: start the service, and make a new backup: those before still have the entries")


@command.command("cancel")
@directory_of(LEDGER)
@reason_option
@json_option
def cancel_(directory: Path, reason: str, as_json: bool) -> None:
    """Take back a decision of which nothing was removed yet. It is an event too."""
    record = cancel(DirectoryPaths(directory), reason=reason)
    if as_json:
        print_json({"cancelled": record.event_id, "minimum_index": record.minimum_index})
    else:
        note(f"the pruning below index {record.minimum_index:,} is taken back")


@command.group("hold")
def hold() -> None:
    """Legal holds: what must not be pruned, whatever the policy says."""


@hold.command("add")
@directory_of(LEDGER)
@click.argument("name")
@click.option("--query", help="Hold the events that a query finds: actor:u_5 since:2026-01-01.")
@click.option("--tenant", help="Hold the events of a tenant.")
@click.option("--from", "start", type=click.IntRange(min=0), help="Hold entries from this index.")
@click.option("--to", "end", type=click.IntRange(min=1), help="Up to this one, which is not held.")
@reason_option
@json_option
def add(
    directory: Path,
    name: str,
    query: str | None,
    tenant: str | None,
    start: int | None,
    end: int | None,
    reason: str,
    as_json: bool,
) -> None:
    """Keep what a query, a tenant or a range of indices names. It is an event.

    Relative times of a query are fixed now.
    """
    paths = DirectoryPaths(directory)
    check_pruned(paths)
    holds = read_holds(paths)
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise click.UsageError("a name has 1 to 63 of A-Z a-z 0-9 . _ - and begins with no mark")
    if any(each.name == name for each in holds):
        raise click.UsageError(f"there is a legal hold {name!r} already: release it, or name anew")
    now = unix_us()
    new = LegalHold(
        name=name,
        reason=reason,
        added=format_time(now),
        by=operator_name(),
        query=_held_query(query, tenant, now, has_range=start is not None or end is not None),
        start=start or 0,
        end=end or 0,
    )
    if not new.query and new.start >= new.end:
        raise click.UsageError("hold something: --query, --tenant, or --from and a larger --to")
    # The hold first: from then on it counts, and a crash before its event is in the outbox leaves
    # one that somebody must release, never an event without its hold.
    write_holds(paths, (*holds, new))
    check_pruned(paths)  # A removal that began before this hold was there does not heed it.
    context = {"reason": reason, "held": new.target, HELD_HASH: hash_held(new.target)}
    record_act(paths, ADDED, targets=[(HOLD_TYPE, name)], context=context)
    if as_json:
        print_json(new)
    else:
        note(f"legal hold {name}: {new.target}")
    _note_held(paths, new, now)


@hold.command("list")
@directory_of(LEDGER)
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List the legal holds."""
    holds = read_holds(DirectoryPaths(directory))
    if as_json:
        print_json(holds)
        return
    for each in holds:
        print_line(f"{each.name}  {each.target}")
        print_line(f"  since {each.added} by {each.by}: {each.reason}")
    if not holds:
        note("no legal hold")


@hold.command("release")
@directory_of(LEDGER)
@click.argument("name")
@reason_option
@json_option
def release(directory: Path, name: str, reason: str, as_json: bool) -> None:
    """End a legal hold. It is an event.

    A hold that the log knows and the file lacks is released as well. One that neither has was
    released before, or never added: nothing is changed then, and no event made.
    """
    paths = DirectoryPaths(directory)
    holds = read_holds(paths)
    rest = tuple(each for each in holds if each.name != name)
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise NotFoundError(f"no legal hold is named {name!r}")
    if rest == holds and not _is_known(paths, name):
        if as_json:
            print_json({"name": name, "released": False})
        else:
            note(f"no legal hold is named {name!r}: it was released already, or was never added")
        return
    # The event first: after a crash the hold is still there, and is released once more.
    record_act(paths, RELEASED, targets=[(HOLD_TYPE, name)], context={"reason": reason})
    if rest != holds:
        write_holds(paths, rest)
    if as_json:
        print_json({"name": name, "released": True})
    else:
        note(f"legal hold {name} is released")


def _is_known(paths: DirectoryPaths, name: str) -> bool:
    """Whether the log has a hold of this name in force, as it will be when the outbox is taken."""
    with closing(open_tokens(paths)) as access:
        waiting = [read_waiting_hold(event) for _, event in access.outbox()]
    acts = [each.action for each in waiting if each is not None and each.name == name]
    if acts:
        return acts[-1] == ADDED
    with closing(open_log(paths.log)) as log:
        return name in known_holds(log)


def _held_query(query: str | None, tenant: str | None, now_unix_us: int, *, has_range: bool) -> str:
    """The text of a hold's query, its times absolute. Raises: UsageError."""
    if sum((query is not None, tenant is not None, has_range)) != 1:
        raise click.UsageError("use one of --query, --tenant, and --from with --to")
    if tenant is not None:
        return format_query(Is("tenant", tenant))
    if query is None:
        return ""
    try:
        held = resolve(parse_query(query), now_unix_us)
        text = format_query(held)
        is_same = parse_query(text, is_long=True) == held
    except QueryError as error:
        raise click.UsageError(f"--query: {error.message}") from None
    if not is_same:
        raise click.UsageError("--query: its text would be read as another query")
    if not text:
        raise click.UsageError("--query: an empty query holds everything: use --from 0 --to SIZE")
    return text


def _note_held(paths: DirectoryPaths, hold: LegalHold, now_unix_us: int) -> None:
    """Say what a new hold keeps, that it finds nothing, and what it comes too late for."""
    with closing(open_log(paths.log)) as log:
        engine = QueryEngine(log, open_index(log, paths.index) if paths.index.exists() else None)
        size = log.head().tree_size
        first = first_held(engine, hold, size, now_unix_us=now_unix_us)
        if first is None:
            note(f"it names none of the {size:,} entries of the log, so it keeps nothing yet")
        else:
            note(f"the first entry that it names is {first:,}: no entry from there on goes")
        if log.minimum_index:
            note(
                f"it holds nothing below index {log.minimum_index:,}: those entries were pruned "
                "before"
            )


def _plan(paths: DirectoryPaths, *, as_json: bool) -> Plan:
    with progress_bar("entries", is_quiet=as_json) as progress:
        return make_plan(paths, now_unix_us=unix_us(), progress=progress)


def _show(plan: Plan) -> None:
    fields: dict[str, object] = {
        "minimum index": f"{plan.minimum_before:,} now, {plan.minimum_after:,} afterwards",
        "goes": f"{counted(plan.entries, 'entry').replace('entrys', 'entries')}",
        "received": f"{plan.oldest} to {plan.newest}" if plan.entries else None,
        "stored": counted(plan.stored_bytes, "byte"),
        "tenants": _tenants(plan) or None,
        "policy": f"approved by {plan.policy.approved_by} on {plan.policy.approved_on}, "
        f"SHA-256 {plan.policy_sha256}",
        "kept by": tuple(
            f"{bound.rule}: from entry {bound.first_kept:,} on"
            for bound in sorted(plan.bounds, key=lambda bound: bound.first_kept)
        ),
    }
    print_fields(fields)


def _tenants(plan: Plan) -> tuple[str, ...]:
    most = sorted(plan.tenants.items(), key=lambda row: -row[1])
    shown = [f"{name or '(none)'}: {number:,}" for name, number in most[:TENANTS_SHOWN]]
    if len(most) > TENANTS_SHOWN:
        shown.append(f"and {counted(len(most) - TENANTS_SHOWN, 'other')}")
    return tuple(shown)


def _show_decision(directory: Path, decision: Decision | None, *, as_json: bool) -> None:
    if as_json:
        shown: Any = None
        if decision is not None:
            shown = {
                "event_id": decision.record.event_id,
                "event_index": decision.event_index,
                "minimum_index": decision.record.minimum_index,
                "stage": decision.stage,
                "removing": decision.record.has_begun,
            }
        print_json(shown)
        return
    if decision is None:
        note("no pruning is decided")
        return
    record = decision.record
    event = msgspec.json.decode(record.event_json)
    print_line(f"decided at {event['time']}: the entries below index {record.minimum_index:,} go")
    if record.has_begun:
        note(f"removal was interrupted; next: ledger retention remove {directory}")
    elif decision.stage == "covered":
        note(f"the event at index {decision.event_index} is covered by a published head")
        note(f"next: stop the service, ledger retention remove {directory}, start the service")
    else:
        where = "waits for the service" if decision.stage == "waiting" else "is in the log"
        note(f"its event {where}, and a published head must cover it: let the service run")
        note(f"then: ledger retention status {directory}")
