"""Checks bundles as versions before the second edition wrote them; nothing writes them any more.

    README.txt                      what this is and how to verify it
    query.txt                       the query
    checkpoint                      ONE signed head (tlog-checkpoint), with its cosignatures
    policy                          the policy that the log publishes: for reading, not for trust
    events/000000000017.leaf.json   the exact leaf bytes of the entry at index 17
    events/000000000017.tlog-proof  its c2sp.org/tlog-proof, against that very head
    manifest.json                   written last: {"v", "query", "tree_size", "events", "sha256"}

`sha256` in the manifest is that of the leaf hashes, joined in the order of the file. No log has
signed the query, so a query that was rewritten is noticed only where an event does not meet it.
"""

import hashlib
from typing import Annotated, Final, Literal

import msgspec

from ledger_core.event.model import whole_text
from ledger_core.evidence.archive import Archive, is_junk
from ledger_core.evidence.findings import Evidence, Existed, Findings
from ledger_core.evidence.layout import CHECKPOINT, MANIFEST, POLICY, QUERY, README
from ledger_core.evidence.question import StatedQuestion, ask
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import Hash, leaf_hash
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.proof import parse_proof
from ledger_core.tlog.text import excerpt
from ledger_core.tlog.tile import LEAF_BYTES_MAX
from ledger_core.tlog.verify import check_inclusion

EVENTS_MAX: Final = 20_000
TEXT_BYTES_MAX: Final = 1 << 16

FIXED: Final = frozenset({README, QUERY, CHECKPOINT, POLICY, MANIFEST})
LEAF_ENDING: Final = ".leaf.json"
PROOF_ENDING: Final = ".tlog-proof"

PROOF_LINES_BYTES_MAX: Final = 4096
"""The lines of a proof before its checkpoint: at most 63 hashes of 45 bytes, and no extra data."""


class FirstManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents that a complete file has."""

    v: Literal[1] = 1
    query: str
    tree_size: Annotated[int, msgspec.Meta(ge=0)]
    events: Annotated[int, msgspec.Meta(ge=0, le=EVENTS_MAX)]
    sha256: Annotated[str, whole_text("[0-9a-f]{64}")]


def check_first_edition(
    archive: Archive, manifest: FirstManifest, head: VerifiedHead, findings: Findings
) -> Evidence:
    """Check each event by its proof and the query, and all of them by the manifest."""
    if head.checkpoint.tree_size != manifest.tree_size:
        findings.add_fault(
            MANIFEST,
            f"the tree has size {manifest.tree_size} there, and {head.checkpoint.tree_size} in the "
            f"{CHECKPOINT}",
        )
    if archive.read(QUERY, TEXT_BYTES_MAX).decode(errors="replace") != f"{manifest.query}\n":
        findings.add_fault(QUERY, f"another query than in {MANIFEST}")
    question = ask(manifest.query, None, language=1)
    events = _Events(archive, head, question, findings)
    events.check_all()
    events.check_manifest(manifest)
    before = head.existed_before_unix_s
    findings.add_note("the first edition: the log has not recorded this query and this export")
    return Evidence(
        edition=1,
        query=manifest.query,
        head=head,
        events=len(events.indices),
        span=(min(events.indices), max(events.indices)) if events.indices else None,
        unevaluated=question.unevaluated(),
        existed=None
        if before is None
        else Existed(first_unix_s=before, last_unix_s=before, delay_s_max=None),
        stated=None,
        disclosed=0,
        faults=tuple(findings.faults),
        notes=tuple(findings.notes),
    )


class _Events:
    """The events of a file against its head and its query."""

    def __init__(
        self, archive: Archive, head: VerifiedHead, question: StatedQuestion, findings: Findings
    ) -> None:
        self._archive = archive
        self._head = head
        self._question = question
        self._findings = findings
        self._proof_bytes_max = len(head.note.encode()) + PROOF_LINES_BYTES_MAX
        self._hashes: list[Hash] = []
        self.indices: list[int] = []

    def check_all(self) -> None:
        """Check each leaf by its proof, in the order of the file."""
        endings: dict[str, set[str]] = {}
        for name in self._archive.names:
            stem, dot, rest = name.partition(".")
            if name in FIXED:
                continue
            if not stem.startswith("events/") or dot + rest not in (LEAF_ENDING, PROOF_ENDING):
                if is_junk(name):
                    self._findings.add_note(f"{excerpt(name)} was added by a desktop")
                else:
                    self._findings.add_fault(excerpt(name), "does not belong here")
                continue
            endings.setdefault(stem, set()).add(dot + rest)
        for stem, found in sorted(endings.items()):
            if found == {LEAF_ENDING, PROOF_ENDING}:
                self._check_event(stem)
            else:
                self._findings.add_fault(
                    stem + found.pop(), "stands alone: want a leaf and its proof"
                )

    def check_manifest(self, manifest: FirstManifest) -> None:
        """Hold the leaves against the manifest, whether their proofs held or not."""
        if len(self._hashes) != manifest.events:
            self._findings.add_fault(
                MANIFEST, f"got {len(self._hashes)} events, want {manifest.events}"
            )
        elif not self._findings.faults and manifest.sha256 not in (
            # The newest came first where the export was asked for so.
            hashlib.sha256(b"".join(self._hashes)).hexdigest(),
            hashlib.sha256(b"".join(reversed(self._hashes))).hexdigest(),
        ):
            self._findings.add_fault(MANIFEST, "the events are not those that it was written for")

    def _check_event(self, stem: str) -> None:
        try:
            leaf = self._archive.read(stem + LEAF_ENDING, LEAF_BYTES_MAX)
            proof = self._archive.read(stem + PROOF_ENDING, self._proof_bytes_max)
        except MalformedError as error:
            self._findings.add_fault(stem + LEAF_ENDING, str(error))
            return
        hash_ = leaf_hash(leaf)
        self._hashes.append(hash_)
        try:
            index = _check_proof(stem, hash_, proof, self._head)
            self.indices.append(index)
            self._question.check(index, leaf)
        except (MalformedError, VerificationError) as error:
            self._findings.add_fault(stem + LEAF_ENDING, str(error))


def event_stem(index: int) -> str:
    """The name of an event's two files without its ending. Names sort by index."""
    return f"events/{index:012d}"


def _check_proof(stem: str, hash_: Hash, proof_bytes: bytes, head: VerifiedHead) -> int:
    """The index of a leaf that is in the head's tree, where its name says."""
    proof = parse_proof(proof_bytes)
    _check_same(f"{stem}{PROOF_ENDING} is of", event_stem(proof.leaf_index), stem)
    _check_same("the proof is against the head", proof.checkpoint, head.note)
    check_inclusion(
        leaf_hash=hash_,
        leaf_index=proof.leaf_index,
        tree_size=head.checkpoint.tree_size,
        proof=proof.hashes,
        root_hash=head.checkpoint.root_hash,
    )
    return proof.leaf_index


def _check_same(what: str, got: str, want: str) -> None:
    if got != want:
        raise VerificationError(f"{what}: got {excerpt(got)}, want {excerpt(want)}")
