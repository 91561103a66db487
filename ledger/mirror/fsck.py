"""fsck of what a mirror has beside a ledger: its settings, its own witness and the accepted head.

`status.json` is not checked: it isn't synced, so a crash may cut it, and an empty one does no harm.
"""

import time
from contextlib import closing

from ledger.mirror.data_dir import MirrorPaths, read_config
from ledger.service.fsck import Findings
from ledger.witness.data_dir import WitnessPaths, read_signers
from ledger.witness.store import HeadStore
from ledger_client.runtime.files import read_limited
from ledger_client.state_file import StateFile
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy


def check_mirror(paths: MirrorPaths, findings: Findings) -> None:
    """Check the parts of a mirror that a ledger does not have."""
    with findings.part("mirror.toml"):
        read_config(paths).endpoint()
    cosigner = WitnessPaths(paths.cosigner)
    with findings.part("cosigner"), closing(HeadStore.open(cosigner.heads)) as heads:
        findings.add("cosigner", heads.check())
        read_signers(cosigner, heads)
    if paths.head.exists():
        with findings.part("head.json"):
            StateFile(
                paths.head,
                policy=parse_policy(read_limited(paths.ledger.policy, POLICY_BYTES_MAX)),
                monotonic_s=time.monotonic,
                evidence=paths.ledger.evidence,
            ).load()
