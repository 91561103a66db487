"""Verifies a bundle of evidence offline, by a policy that the reader trusts.

In this order, and the first two end it:

1. The .zip is whole: it has the fixed files, and no name twice. Otherwise MalformedError.
2. The head meets the policy. Otherwise VerificationError.
3. Each event is in the tree of that head, and meets the query.
4. The bundle is the one that the log's own statement describes.

What fails in step 3 or 4 is a fault of one file, and the other files are still checked. The policy
inside of the bundle is compared with the trusted one, and never used.

This is the only module of `ledger_core` that opens a file: the path is the caller's.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from ledger_core.evidence import first_edition, layout
from ledger_core.evidence.archive import Archive
from ledger_core.evidence.findings import Evidence, Findings
from ledger_core.evidence.first_edition import FirstManifest, check_first_edition
from ledger_core.evidence.layout import CHECKPOINT, INDEX, MANIFEST, POLICY, README, Manifest
from ledger_core.evidence.policies import compare_policies
from ledger_core.evidence.second_edition import OnEvent, SecondEdition
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.note import NOTE_BYTES_MAX
from ledger_core.tlog.policy import POLICY_BYTES_MAX, Policy
from ledger_core.tlog.text import decode_text

MANIFEST_BYTES_MAX: Final = 1 << 16
LATEST_EDITION: Final = 2


class _Edition(msgspec.Struct):
    v: int


def check_evidence(
    path: Path, policy: Policy, *, on_event: OnEvent = lambda _index, _leaf: None
) -> Evidence:
    """Verify a bundle: its head by the policy, each event by its proof, all by the statement.

    `on_event` is called with index and leaf of each event that is proven, in ascending order.
    Raises: MalformedError for a file of another format; VerificationError when its head does not
    meet the policy. Cost: 20 µs an event, and constant memory.
    """
    with Archive(path) as archive:
        if MANIFEST not in archive.names:
            raise MalformedError(f"not evidence, or cut short: {MANIFEST} is missing")
        manifest = _read_manifest(archive.read(MANIFEST, MANIFEST_BYTES_MAX))
        is_first = isinstance(manifest, FirstManifest)
        fixed = first_edition.FIXED if is_first else layout.FIXED
        if missing := sorted(fixed.difference(archive.names)):
            raise MalformedError(f"not evidence, or cut short: {', '.join(missing)} is missing")
        try:
            head = policy.check(decode_text(archive.read(CHECKPOINT, NOTE_BYTES_MAX)))
        except VerificationError as error:
            raise VerificationError(f"{CHECKPOINT}: {error}", evidence=error.evidence) from error
        findings = Findings()
        for odd in archive.odd_bytes:
            findings.add_fault(path.name, f"it holds {odd}")
        for note in compare_policies(archive.read(POLICY, POLICY_BYTES_MAX), policy):
            findings.add_note(note)
        if isinstance(manifest, FirstManifest):
            found = check_first_edition(archive, manifest, head, findings)
        else:
            found = SecondEdition(archive, manifest, head, policy, findings, on_event).check()
    if found.are_texts_proven:
        return found
    note = (
        f"whoever handed the file over can have written {README} and {INDEX}: nothing proves them"
    )
    return replace(found, notes=(*found.notes, note))


def _read_manifest(data: bytes) -> Manifest | FirstManifest:
    try:
        edition = msgspec.json.decode(data, type=_Edition).v
        if edition == 1:
            return msgspec.json.decode(data, type=FirstManifest)
        if edition > LATEST_EDITION:
            raise MalformedError(
                f"evidence of edition {edition}, this version reads 1 to {LATEST_EDITION}:"
                " install a newer one"
            )
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"{MANIFEST}: {error}") from None
