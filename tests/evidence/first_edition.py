"""Writes bundles of the first edition, as the code before the second one did."""

import hashlib
import json
import zipfile
from pathlib import Path

from ledger_core.evidence.first_edition import event_stem
from ledger_core.tlog.policy import format_policy
from ledger_core.tlog.proof import format_proof
from tests.client.hosts import entries
from tests.client.trees import SmallLog

LOG = SmallLog(entries(40))
INDICES = (0, 7, 39)
POLICY = LOG.policy


def write(path: Path, indices: tuple[int, ...] = INDICES, *, query: str = "actor:u_1") -> Path:
    manifest = {
        "v": 1,
        "query": query,
        "tree_size": 40,
        "events": len(indices),
        "sha256": hashlib.sha256(b"".join(LOG.leaf_hashes[at] for at in indices)).hexdigest(),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", "Evidence\n")
        archive.writestr("query.txt", f"{query}\n")
        archive.writestr("checkpoint", LOG.note(40))
        archive.writestr("policy", format_policy([LOG.signer.verifier]))
        for index in indices:
            archive.writestr(f"{event_stem(index)}.leaf.json", LOG.leaves[index])
            archive.writestr(f"{event_stem(index)}.tlog-proof", format_proof(LOG.proof(index, 40)))
        archive.writestr("manifest.json", json.dumps(manifest))
    return path
