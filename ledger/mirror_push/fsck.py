"""Checks the file of the mirrors of a ledger. `follower_fsck` checks their positions."""

from ledger.mirror_push.config import read_mirrors
from ledger.service.data_dir import DirectoryPaths
from ledger.service.fsck import Findings


def check_mirrors(paths: DirectoryPaths, findings: Findings) -> None:
    """Check the configuration of the mirrors."""
    with findings.part("mirrors.toml"):
        read_mirrors(paths.root)
