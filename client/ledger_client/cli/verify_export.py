"""`ledger verify-export`: check a SIEM's copy of the log line by line, and name what it lacks."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import click

from ledger_client import Entry, LedgerClient, RejectedError
from ledger_client.audit.copy_check import LINE_BYTES_MAX, Copy, compare, ranges, read_copy
from ledger_client.cli.client_options import EXISTING_FILE, Connection, connection_options
from ledger_client.cli.console import counted, json_option, note, print_json
from ledger_client.cli.query import explained
from ledger_client.runtime.clock import unix_us
from ledger_core.query.ast import resolve
from ledger_core.query.parser import parse_query
from ledger_core.query.predicate import make_matcher
from ledger_core.tlog.errors import VerificationError

RANGES_SHOWN = 20


@click.command("verify-export")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=EXISTING_FILE)
@connection_options
@click.option("--query", default="", help="The query of the sink: others may be missing.")
@click.option("--from", "start", type=click.IntRange(min=0), help="Default: the lowest index.")
@click.option("--to", "end", type=click.IntRange(min=0), help="Default: past the highest index.")
@json_option
def command(
    files: tuple[Path, ...],
    connection: Connection,
    query: str,
    start: int | None,
    end: int | None,
    as_json: bool,
) -> None:
    """Check a copy of the log, JSON lines as a sink wrote or a SIEM exports them.

    Each line must be an entry of the log, by index, leaf hash and origin, and hold what that leaf
    hash is of. Every entry from --from to --to must be there. The entries are read from the log and
    verified. Exit code 1: something is altered or missing.
    """
    if start is not None and end is not None and start >= end:
        raise click.UsageError(f"--from {start} is not below --to {end}")
    with explained(query), connection.open() as ledger:
        matches = make_matcher(resolve(parse_query(query), unix_us()))
        head = ledger.checkpoint().checkpoint
        if end is not None and end > head.tree_size:
            raise VerificationError(f"--to {end}: the log has {head.tree_size} entries")
        copy = read_copy(_lines(files), origin=head.origin, tree_size=head.tree_size)
        first, last = min(copy.records, default=0), max(copy.records, default=-1)
        wanted = range(first if start is None else start, last + 1 if end is None else end)
        if copy.records and not wanted:
            raise VerificationError(f"the copy ends at entry {last}, before --from {start}")
        # Each line is compared, also one of an entry beside those that must be there.
        lowest = min(wanted.start, first) if copy.records else wanted.start
        present, entries = _entries(ledger, lowest, max(wanted.stop, last + 1))
        if copy.records and wanted.stop <= present:
            raise VerificationError(
                f"the log has none of the entries {wanted.start} to {wanted.stop - 1} any more"
            )
        lacking = compare(
            copy,
            _leaves(entries),
            is_wanted=lambda index, leaf: index in wanted and matches(index, leaf),
        )
    _show(copy, lacking, range(max(wanted.start, present), wanted.stop), as_json=as_json)


def _entries(ledger: LedgerClient, start: int, end: int) -> tuple[int, Iterator[Entry]]:
    """The entries of a range that the log still has, and the first of their indices.

    Raises: RejectedError when it has none of them any more.
    """
    if start >= end:
        return start, iter(())
    entries = iter(ledger.events(start, end))
    try:
        first = next(entries)
    except RejectedError as error:
        minimum = error.problem.limit
        if error.problem.slug != "pruned" or minimum is None or not start < minimum < end:
            raise
        note(
            f"the entries {start} to {minimum - 1} were pruned in the log, so they are not compared"
            " with it"
        )
        return minimum, ledger.events(minimum, end)
    return start, chain((first,), entries)


def _lines(files: tuple[Path, ...]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            while line := file.readline(LINE_BYTES_MAX + 1):
                yield line
                while len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
                    line = file.readline(LINE_BYTES_MAX + 1)


def _leaves(entries: Iterator[Entry]) -> Iterator[tuple[int, bytes]]:
    return ((entry.index, entry.leaf) for entry in entries)


def _show(copy: Copy, lacking: list[int], span: range, *, as_json: bool) -> None:
    """Raises: VerificationError when anything is wrong."""
    is_whole = bool(copy.records) and not copy.faults.total and not lacking
    if as_json:
        print_json(
            {
                "verified": is_whole,
                "lines": copy.lines,
                "entries": len(copy.records),
                "from": span.start,
                "to": span.stop,
                "repeated": copy.repeated,
                "without_content": copy.without_content,
                "ocsf": copy.ocsf,
                "with_more": copy.with_more,
                "faults": copy.faults.first,
                "faults_total": copy.faults.total,
                "missing": list(ranges(lacking)),
            }
        )
    elif is_whole:
        click.secho("verified", fg="green", bold=True)
        click.echo(
            f"{counted(copy.lines, 'line')}: the entries {span.start} to {span.stop - 1}, none "
            f"altered, none missing ({copy.repeated} repeated)"
        )
        if copy.without_content:
            note(
                f"{counted(copy.without_content, 'line')} had a leaf hash and no content that it "
                "is of: what else they say was not compared"
            )
        if copy.ocsf:
            note(
                f"of {counted(copy.ocsf, 'line')} of OCSF, raw_data and unmapped were compared, "
                "and no other attribute"
            )
        if copy.with_more:
            note(
                f"{counted(copy.with_more, 'line')} had more around an entry: the entry was "
                "compared, and nothing else"
            )
    if is_whole:
        return
    for fault in copy.faults.lines():
        note(f"not verified: {fault}")
    for first, last in islice(ranges(lacking), RANGES_SHOWN):
        note(f"missing: entry {first}" if first == last else f"missing: entries {first} to {last}")
    if not copy.records:
        raise VerificationError("no line is of this log")
    raise VerificationError(
        f"{copy.faults.total} faults, {len(lacking)} entries missing of {len(span)}"
    )
