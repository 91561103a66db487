"""`ledger export`: write all events that a query finds to one file."""

import shutil
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import click

from ledger_client import EvidenceFile
from ledger_client.cli.client_options import (
    NEW_FILE,
    Connection,
    connection_options,
    refuse_existing,
)
from ledger_client.cli.console import counted, json_option, note, print_json
from ledger_client.cli.query import explained, order_option, read_lists
from ledger_client.cli.verify import evidence_verdict, head_verdict, note_findings
from ledger_client.plans.export import proof_path
from ledger_client.plans.export_proof import FileFormat
from ledger_client.plans.search import Order
from ledger_core.tlog.text import printable

STDOUT = Path("-")
ENDINGS = {"jsonl": "jsonl", "csv": "csv", "parquet": "parquet", "evidence": "zip"}


@click.command("export")
@click.argument("words", metavar="[QUERY]...", nargs=-1)
@connection_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(tuple(ENDINGS)),
    default="jsonl",
    show_default=True,
    help="JSON lines, CSV, Parquet (the extra sql), or a .zip that anybody can verify offline.",
)
@click.option(
    "-o",
    "--output",
    type=NEW_FILE,
    help="The file; - is standard output. Default: events and the ending of the format.",
)
@order_option("oldest")
@click.option("--force", is_flag=True, help="Replace the files if they exist.")
@click.option(
    "--unverified",
    is_flag=True,
    help="Don't prove the rows; write no file of proofs. Not for evidence.",
)
@click.option("--case", help="Evidence: the number or name of the case. The log records it.")
@click.option("--reason", help="Evidence: why it is exported. The log records it.")
@click.option(
    "--disclose",
    multiple=True,
    metavar="PATH",
    help="Evidence: put the private values at this JSON Pointer beside the events; * is any key or"
    " position. May be repeated; needs a token with the scope private.",
)
@json_option
def command(
    words: tuple[str, ...],
    connection: Connection,
    format_: str,
    output: Path | None,
    order: Order,
    force: bool,
    unverified: bool,
    case: str | None,
    reason: str | None,
    disclose: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write all events that a query finds to a file, the oldest first by index or by time.

    The file appears only when it is complete and verified. The proofs of all formats but evidence
    are beside it, in FILE.proof. Of evidence the log records who exported it, when, and why.
    `ledger verify FILE` verifies each of them anywhere.
    """
    query = read_lists(" ".join(words))
    output = output or Path(f"events.{ENDINGS[format_]}")
    if format_ != "evidence" and (case or reason or disclose):
        raise click.UsageError("Use --case, --reason and --disclose with --format evidence.")
    beside = () if format_ == "evidence" else (proof_path(output),)
    is_streamed = _is_stream(output)
    if not is_streamed:
        refuse_existing(output, *beside, force=force)
    elif as_json and output == STDOUT:
        raise click.UsageError("Use --json with a file: the events go to standard output.")
    with ExitStack() as opened:
        file = output
        if is_streamed:
            file = Path(opened.enter_context(TemporaryDirectory(prefix="ledger-")), "events")
        ledger = opened.enter_context(connection.open())
        opened.enter_context(explained(query))
        if format_ == "evidence":
            written = ledger.evidence(query, file, case=case, reason=reason, disclose=disclose)
        else:
            kind = cast("FileFormat", format_)
            exported = ledger.export(query, file, format=kind, order=order, verify=not unverified)
        if is_streamed:
            _copy(file, output)
    if format_ == "evidence":
        _show_evidence(output, written, as_json=as_json)
        return
    proofs = None if exported.head is None or is_streamed else str(proof_path(output))
    if as_json:
        head = None if exported.head is None else head_verdict(exported.head)
        print_json(
            {
                "file": str(output),
                "proofs": proofs,
                "exported": {
                    "rows": exported.rows,
                    "tree_size": exported.tree_size,
                    "sha256": exported.sha256,
                    "bytes_written": exported.bytes_written,
                },
                "head": head,
            }
        )
        return
    note(
        f"{output}: {counted(exported.rows, 'event')}, {exported.bytes_written:,} bytes,"
        f" SHA-256 {exported.sha256}"
    )
    if exported.head is None:
        note("not verified: no row is proven to be in the log")
    else:
        size = exported.head.checkpoint.tree_size
        note(f"each is in the tree of size {size:,}: {proofs or 'the proofs need a file, with -o'}")
        _note_searched(exported.tree_size)


def _note_searched(tree_size: int) -> None:
    """Print of which tree the file is: the ledger chooses it, and may leave out the newest ones."""
    note(f"searched, as the ledger says: the first {tree_size:,} entries of the log")


def _is_stream(path: Path) -> bool:
    """Whether a path is standard output, a device or a pipe, which is written to as it is."""
    return path == STDOUT or (path.exists() and not path.is_file() and not path.is_dir())


def _copy(file: Path, to: Path) -> None:
    """Write a complete and verified file to a stream; a terminal gets no control characters."""
    opened = nullcontext(sys.stdout.buffer) if to == STDOUT else to.open("wb")
    with file.open("rb") as data, opened as stream:
        if not stream.isatty():  # A path as /dev/stdout may be a terminal too.
            shutil.copyfileobj(data, stream)
            return
        for line in data:
            shown = printable(line.decode(errors="replace").rstrip("\r\n"))
            stream.write(f"{shown}\n".encode())


def _show_evidence(output: Path, written: EvidenceFile, *, as_json: bool) -> None:
    evidence, stated = written.evidence, written.evidence.stated
    if as_json:
        print_json(
            {
                "file": str(output),
                "sha256": written.sha256,
                "bytes_written": written.bytes_written,
                **evidence_verdict(evidence),
            }
        )
        return
    note(
        f"{output}: {counted(evidence.events, 'event')}, verified; {written.bytes_written:,} bytes,"
        f" SHA-256 {written.sha256}"
    )
    if stated is not None and stated.index is not None:
        note(f"entry {stated.index:,} of the log records this export")
    elif stated is not None:
        note(f"nothing proves the record of this export yet: {stated.missing}")
    _note_searched(evidence.head.checkpoint.tree_size)
    if not evidence.events:
        note("no event was found: this proves nothing, not even that no event matches")
    note_findings(evidence)
