"""`ledger recover`: show what an old copy of a ledger lacks, and take the missing entries over."""

from contextlib import closing
from pathlib import Path
from typing import Any

import click

from ledger.cli.folders import LEDGER, directory_of
from ledger.log.hold import read_hold
from ledger.object_storage.open_log import open_log
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.operator_events import operator_event
from ledger.service.recovery import Known, Taken, end_hold, known_heads, take_over, take_receipts
from ledger.service.recovery_journal import check_finished
from ledger_client.cli.client_options import EXISTING_FOLDER
from ledger_client.cli.console import json_option, note, print_fields, print_json, print_line
from ledger_client.runtime.clock import unix_us
from ledger_core.event.times import format_time

GAPS_SHOWN = 10


@click.command("recover")
@directory_of(LEDGER)
@click.option(
    "--from",
    "newer",
    type=EXISTING_FOLDER,
    help="Take over the missing entries from a newer folder or backup of this ledger.",
)
@click.option(
    "--receipts",
    type=EXISTING_FOLDER,
    help="Take over the missing entries from a folder of receipts: NAME.leaf.json and "
    "NAME.tlog-proof each, as `ledger prove` writes them.",
)
@click.option(
    "--accept",
    is_flag=True,
    help="Take events again although entries are missing: their indices are given a second time.",
)
@click.option("--offline", is_flag=True, help="Don't ask the witnesses.")
@json_option
def command(
    directory: Path,
    newer: Path | None,
    receipts: Path | None,
    accept: bool,
    offline: bool,
    as_json: bool,
) -> int:
    """Show what is known of the log in DIRECTORY, and from whom.

    A ledger takes no events after an old copy of it was put back. Without an option this changes
    nothing. With --from or --receipts, what was acknowledged meanwhile is taken over; when nothing
    is missing any more, the ledger takes events again. Stop the service before you use them.

    Exit code 1: entries are missing, or the ledger takes no events until you decide.
    """
    if newer and receipts:
        raise click.UsageError("use --from or --receipts, not both")
    paths, now = DirectoryPaths(directory), unix_us()
    hold = read_hold(paths.hold)
    reason = None if hold is None else hold.reason
    taken = None
    if newer is not None:
        taken = take_over(paths, newer, now=format_time(now))
    elif receipts is not None:
        taken = take_receipts(paths, receipts)
    elif accept:
        check_finished(paths)
    known = known_heads(paths, ask=not offline)
    missing = [each for each in known.heads if each.is_missing]
    is_ended = accept or (taken is not None and not missing)
    if taken is not None or accept:
        _record(paths, known, taken, is_accepted=accept, unix_us=now)
    if is_ended:
        end_hold(paths)
    _report(paths, known, taken, as_json=as_json, reason=reason, is_ended=is_ended)
    return 0 if is_ended or not (missing or reason) else 1


def _record(
    paths: DirectoryPaths, known: Known, taken: Taken | None, *, is_accepted: bool, unix_us: int
) -> None:
    """Put the event that records the decision into the outbox."""
    context: dict[str, Any] = {"accepted": is_accepted, "known_size": _largest(known)}
    if taken is not None:
        context["taken"] = {"entries": taken.entries, "moved": taken.moved}
    event = operator_event("ledger.recovered", unix_us, context=context)
    with closing(open_tokens(paths)) as access:
        access.enqueue(event)


def _largest(known: Known) -> int | None:
    return known.heads[0].head.head.tree_size if known.heads else None


def _report(
    paths: DirectoryPaths,
    known: Known,
    taken: Taken | None,
    *,
    as_json: bool,
    reason: str | None,
    is_ended: bool,
) -> None:
    with closing(open_log(paths.log)) as store:
        head = store.head()
    if as_json:
        print_json(
            {
                "tree_size": head.tree_size,
                "root_hash": head.root_hash.hex(),
                "held": None if is_ended else reason,
                "known": [
                    {
                        "by": each.by,
                        "tree_size": each.head.head.tree_size,
                        "missing": each.is_missing,
                    }
                    for each in known.heads
                ],
                "failures": known.failures,
                "taken": None if taken is None else taken._asdict() | {"kept": str(taken.kept)},
            }
        )
        return
    if taken is not None:
        _print_taken(taken)
    print_fields({"log": paths.log, "entries": head.tree_size, "root": head.root_hash.hex()})
    for each in known.heads:
        state = "MISSING here" if each.is_missing else "in this log"
        print_line(f"  size {each.head.head.tree_size:>12,}  {state}  {each.by}")
    for failure in known.failures:
        note(failure)
    missing = [each for each in known.heads if each.is_missing]
    if is_ended:
        note("the ledger takes events again")
    elif missing or reason:
        note(f"no event is taken: {reason or 'not held yet; `ledger serve` will notice'}")
        if not missing:
            note("nobody who was asked has a head that is missing here; that proves nothing")
        note(
            "next: --from NEWER_FOLDER or --receipts FOLDER takes over what is missing; --accept "
            "gives its indices again, and a witness that has a missing head never cosigns then"
        )


def _print_taken(taken: Taken) -> None:
    print_line(f"taken over: {taken.entries:,} entries, {taken.values:,} private values")
    if taken.kept is not None:
        print_line(
            f"moved behind them: {taken.moved:,} events; {taken.conflicts:,} have an id that is "
            f"taken and stand only in {taken.kept}"
        )
    if taken.gaps:
        some = ", ".join(map(str, taken.gaps[:GAPS_SHOWN]))
        more = " …" if len(taken.gaps) > GAPS_SHOWN else ""
        note(f"no receipt for {len(taken.gaps):,} entries: {some}{more}; none behind them is taken")
