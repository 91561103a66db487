"""Verifies a file of evidence offline, by a policy that the reader trusts.

In this order, and the first two end it:

1. The .zip is whole: it has the fixed files, and no name twice. Otherwise MalformedError.
2. The head meets the policy. Otherwise VerificationError.
3. Each event has a leaf and a proof, the proof is against that head, and it holds.
4. The events are those of the manifest.

What fails in step 3 or 4 is a fault of one file, and the other files are still checked. The policy
inside of the file is never trusted.

A file from a stranger costs no more than its size: its directory is limited before it is read, each
entry before it is decompressed, and only deflate is decompressed, because zipfile has no limit for
the other methods.

This is the only module of `ledger_core` that opens a file: the path is the caller's.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from ledger_core.evidence.bundle import (
    CHECKPOINT,
    EVENTS_MAX,
    FIXED,
    LEAF_ENDING,
    MANIFEST,
    POLICY,
    PROOF_ENDING,
    Manifest,
    event_stem,
)
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import Hash, leaf_hash
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.proof import PROOF_BYTES_MAX, parse_proof
from ledger_core.tlog.text import decode_text, excerpt
from ledger_core.tlog.tile import LEAF_BYTES_MAX
from ledger_core.tlog.verify import check_inclusion

FAULTS_MAX: Final = 20
MANIFEST_BYTES_MAX: Final = 1 << 16

DIRECTORY_BYTES_MAX: Final = 128 * (2 * EVENTS_MAX + len(FIXED))
"""A file takes 46 bytes and its name in the directory of a .zip; ours have 30 characters."""

PROOF_LINES_BYTES_MAX: Final = 4096
"""The lines of a proof before its checkpoint: at most 63 hashes of 45 bytes, and no extra data."""

_UNREADABLE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,  # The file is encrypted.
    ValueError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A file that was verified, except for its `faults`."""

    manifest: Manifest
    head: VerifiedHead
    indices: tuple[int, ...]
    """The events that are in the tree of the head, in the order of the file."""
    policy_differs: bool
    """Whether the policy in the file has none of the trusted policy's log keys."""
    faults: tuple[str, ...] = ()
    """Each with the name of the file that it is in: at most FAULTS_MAX, and then `and more`."""


def check_evidence(path: Path, policy: Policy) -> Evidence:
    """Verify a file offline: its head by the policy, and each event by its proof.

    Raises: MalformedError for a file of another format; VerificationError when its head does not
    meet the policy.
    """
    try:
        with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            return _check(archive, policy)
    except MalformedError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise MalformedError(f"{path.name} is not a whole .zip: {error}") from None


def _check(archive: zipfile.ZipFile, policy: Policy) -> Evidence:
    names = archive.namelist()
    if len(names) > 2 * EVENTS_MAX + len(FIXED):
        raise MalformedError(f"got {len(names)} files, want {EVENTS_MAX} events at most")
    if len(set(names)) != len(names):
        raise MalformedError("a name stands twice in it")
    for info in archive.infolist():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise MalformedError(f"{excerpt(info.filename)} is not compressed with deflate")
    if missing := sorted(FIXED.difference(names)):
        raise MalformedError(f"not evidence, or cut short: {', '.join(missing)} is missing")
    manifest = _read_manifest(_read(archive, MANIFEST, MANIFEST_BYTES_MAX))
    try:
        head = policy.check(decode_text(_read(archive, CHECKPOINT, PROOF_BYTES_MAX)))
    except VerificationError as error:
        raise VerificationError(f"{CHECKPOINT}: {error}", evidence=error.evidence) from error
    events = _Events(archive, head)
    if head.checkpoint.tree_size != manifest.tree_size:
        events.add_fault(
            MANIFEST,
            f"the tree has size {manifest.tree_size} there, and {head.checkpoint.tree_size} in the "
            f"{CHECKPOINT}",
        )
    events.check_all(names)
    events.check_manifest(manifest)
    return Evidence(
        manifest=manifest,
        head=head,
        indices=tuple(events.indices),
        policy_differs=_policy_differs(archive, policy),
        faults=tuple(events.faults),
    )


class _BoundedFile(io.FileIO):
    """A file that refuses a read larger than any that a .zip of evidence needs.

    Zipfile reads the directory in one piece, as large as the file states, and keeps an object of it
    for each entry.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises: MalformedError for more than `DIRECTORY_BYTES_MAX`."""
        want = DIRECTORY_BYTES_MAX + 1 if size is None or size < 0 else size
        data = super().read(min(want, DIRECTORY_BYTES_MAX + 1)) or b""
        if len(data) > DIRECTORY_BYTES_MAX:
            raise MalformedError(f"a directory has at most {DIRECTORY_BYTES_MAX} bytes")
        return data


class _Events:
    """The events of a file against its head, and their faults as they are found."""

    def __init__(self, archive: zipfile.ZipFile, head: VerifiedHead) -> None:
        self._archive = archive
        self._head = head
        self._proof_bytes_max = len(head.note.encode()) + PROOF_LINES_BYTES_MAX
        self._hashes: list[Hash] = []
        self.indices: list[int] = []
        self.faults: list[str] = []

    def check_all(self, names: Sequence[str]) -> None:
        """Check each leaf by its proof, in the order of the file."""
        endings: dict[str, set[str]] = {}
        for name in names:
            stem, dot, rest = name.partition(".")
            if name in FIXED:
                continue
            if not stem.startswith("events/") or dot + rest not in (LEAF_ENDING, PROOF_ENDING):
                self.add_fault(excerpt(name), "does not belong here")
                continue
            endings.setdefault(stem, set()).add(dot + rest)
        for stem, found in endings.items():
            if found == {LEAF_ENDING, PROOF_ENDING}:
                self._check_event(stem)
            else:
                self.add_fault(stem + found.pop(), "stands alone: want a leaf and its proof")

    def check_manifest(self, manifest: Manifest) -> None:
        """Hold the leaves against the manifest, whether their proofs held or not."""
        if len(self._hashes) != manifest.events:
            self.add_fault(MANIFEST, f"got {len(self._hashes)} events, want {manifest.events}")
        elif (
            not self.faults
            and hashlib.sha256(b"".join(self._hashes)).hexdigest() != manifest.sha256
        ):
            self.add_fault(MANIFEST, "the events are not those that it was written for")

    def add_fault(self, name: str, reason: str) -> None:
        """Add a fault of a file, up to their limit."""
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(f"{name}: {reason}")
        elif len(self.faults) == FAULTS_MAX:
            self.faults.append("and more")

    def _check_event(self, stem: str) -> None:
        leaf = self._read(stem + LEAF_ENDING, LEAF_BYTES_MAX)
        proof = self._read(stem + PROOF_ENDING, self._proof_bytes_max)
        if leaf is None or proof is None:
            return
        hash_ = leaf_hash(leaf)
        self._hashes.append(hash_)
        try:
            self.indices.append(_check_proof(stem, hash_, proof, self._head))
        except (MalformedError, VerificationError) as error:
            self.add_fault(stem + LEAF_ENDING, str(error))

    def _read(self, name: str, bytes_max: int) -> bytes | None:
        try:
            return _read(self._archive, name, bytes_max)
        except MalformedError as error:
            self.add_fault(excerpt(name), str(error))
            return None


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


def _read_manifest(data: bytes) -> Manifest:
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedError(f"{MANIFEST}: {error}") from None


def _policy_differs(archive: zipfile.ZipFile, policy: Policy) -> bool:
    text = _read(archive, POLICY, PROOF_BYTES_MAX).decode(errors="replace")
    return not any(str(log.verifier) in text for log in policy.logs)


def _read(archive: zipfile.ZipFile, name: str, bytes_max: int) -> bytes:
    """Read a file of limited size, whatever size the archive states for it."""
    try:
        with archive.open(name) as file:
            data = file.read(bytes_max + 1)
    except _UNREADABLE as error:
        raise MalformedError(f"{excerpt(name)} can't be read: {error}") from None
    if len(data) > bytes_max:
        raise MalformedError(f"{excerpt(name)} is longer than {bytes_max} bytes")
    return data
