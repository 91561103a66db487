"""`ledger demo`: show the main job, step by step, on a temporary ledger."""

import shutil
import tempfile
from pathlib import Path

import click

from ledger.demo.ending import interrupted_by_signals
from ledger.demo.steps import run_demo
from ledger_client.cli.client_options import EXISTING_FILE
from ledger_client.collect.importers import FORMATS


@click.command("demo")
@click.option("--once", is_flag=True, help="Exit after the last step instead of serving on.")
@click.option(
    "--import",
    "file",
    type=EXISTING_FILE,
    help="Import a file of your own events too.",
)
@click.option("--format", "format_", type=click.Choice(FORMATS), default="jsonl", show_default=True)
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="Where to serve.")
def command(once: bool, file: Path | None, format_: str, listen: str) -> None:
    """Append the events of a company's bad week, prove and verify one, tamper, and be caught."""
    with interrupted_by_signals():
        scratch = Path(tempfile.mkdtemp(prefix="ledger-demo-"))
        try:
            run_demo(scratch, once=once, file=file, format_=format_, listen=listen)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
