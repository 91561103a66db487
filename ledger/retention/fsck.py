"""Checks the retention of a ledger: its policy, its legal holds, and a decision that isn't done."""

from ledger.retention.legal_holds import read_holds
from ledger.retention.policy import read_retention
from ledger.service.data_dir import DirectoryPaths
from ledger.service.fsck import Findings
from ledger.service.pruning_journal import check_pruned


def check_retention(paths: DirectoryPaths, findings: Findings) -> None:
    """Check those files of the retention of a ledger that exist."""
    if paths.retention.exists():
        with findings.part(paths.retention.name):
            read_retention(paths.retention)
    with findings.part(paths.legal_holds.name):
        read_holds(paths)
    with findings.part(paths.pruning.name):
        check_pruned(paths)
