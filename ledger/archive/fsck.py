"""Checks the file of the archives of a ledger. `follower_fsck` checks their positions."""

from ledger.archive.config import KIND, read_archives
from ledger.archive.worker import read_kept_lock
from ledger.follow.position import FollowerPaths
from ledger.service.data_dir import DirectoryPaths
from ledger.service.fsck import Findings


def check_archives(paths: DirectoryPaths, findings: Findings) -> None:
    """Check the configuration of the archives, and the stored locks of their buckets."""
    with findings.part("archive.toml"):
        for name in read_archives(paths.root):
            with findings.part(f"{KIND}/{name}/lock.json"):
                read_kept_lock(FollowerPaths(paths.root, KIND, name))
