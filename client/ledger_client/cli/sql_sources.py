"""Rewrites exports as CSV and bundles of evidence as JSON lines, which DuckDB takes.

Each row of CSV has the hash of its leaf beside it, and is held against it. Each event of a bundle
is verified by the policy, as `ledger verify` does it. What does not hold ends the reading.
"""

from pathlib import Path
from typing import BinaryIO, Final

from ledger_client.plans.export_rows import CsvRows
from ledger_client.sql.parquet import format_line
from ledger_core.event.csv import COLUMNS
from ledger_core.evidence.findings import Evidence
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.policy import Policy

CSV_BEGINS: Final = ",".join(COLUMNS[:4]).encode()
ZIP_BEGINS: Final = b"PK\x03\x04"
_READ_BYTES: Final = 1 << 20


def rewrite_csv(export: Path, lines: BinaryIO) -> int:
    """Write the rows of a CSV export as JSON lines; return their number.

    Raises: MalformedError; VerificationError for a row that was altered.
    """
    reader, rows = CsvRows(), 0
    with export.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            for row in reader.feed(piece)[1]:
                if row.fault:
                    raise VerificationError(f"{export}: row {row.number}: {row.fault}")
                lines.write(format_line(row.index, row.leaf, row.leaf_hash))
                rows = row.number
    if reader.rest():
        raise MalformedError(f"{export}: the last row has no end: the file was cut short")
    return rows


def rewrite_evidence(bundle: Path, policy: Policy, lines: BinaryIO) -> Evidence:
    """Write the events of a bundle of evidence as JSON lines, each verified.

    Raises: MalformedError; VerificationError for a bundle with a fault.
    """
    evidence = check_evidence(
        bundle,
        policy,
        on_event=lambda index, leaf: lines.write(format_line(index, leaf, leaf_hash(leaf))),
    )
    if evidence.edition == 1:
        raise MalformedError(f"{bundle}: SQL reads bundles of the second edition; export it again")
    if evidence.faults:
        first = evidence.faults[0]
        raise VerificationError(f"{bundle}: {first}; `ledger verify` names all that is wrong")
    return evidence
