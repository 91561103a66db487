"""fsck of a reader's folder: its files, its tokens, and the head that it served last.

The log is in the bucket, and `ledger verify-archive` checks it. The cache is not checked: a file of
it can't be told from a damaged one without its object's name, and is checked when it is read.
"""

import time
from contextlib import closing

from ledger.reader.data_dir import ReaderPaths, read_config
from ledger.service.data_dir import open_tokens
from ledger.service.fsck import Findings, check_files
from ledger.store.environment import DATA_FILE
from ledger.store.pages import check_pages
from ledger_client.runtime.files import read_limited
from ledger_client.state_file import StateFile
from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy
from ledger_core.tlog.tree import TreeHead


def check_reader(paths: ReaderPaths) -> Findings:
    """Check all parts of a reader. Raises nothing that damage can cause."""
    findings = Findings()
    with findings.part("reader.toml"):
        read_config(paths)
    with findings.part("policy"):
        parse_policy(read_limited(paths.ledger.policy, POLICY_BYTES_MAX))
    check_files(paths.ledger, findings)
    with findings.part("access"):
        if not (paths.ledger.access / DATA_FILE).exists():
            raise UnavailableError(f"there are no tokens in {paths.ledger.access}")
        with closing(open_tokens(paths.ledger)) as access:
            check_pages(access.environment)
            findings.add("access", access.damaged())
            findings.tokens = len(access.records())
    if paths.head.exists():
        with findings.part("head.json"):
            served_head(paths)
    return findings


def served_head(paths: ReaderPaths) -> TreeHead | None:
    """The head that was served last, None before the first. Raises: as `StateFile.load`."""
    policy = parse_policy(read_limited(paths.ledger.policy, POLICY_BYTES_MAX))
    note = StateFile(paths.head, policy=policy, monotonic_s=time.monotonic).load()
    return None if note is None else parse_signed_checkpoint(note).head
