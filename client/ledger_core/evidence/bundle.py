"""Evidence to hand over: one .zip with events, and what shows that they are in a witnessed log.

    README.txt                      what this is and how to verify it, for whoever is handed it
    query.txt                       the question that was asked
    checkpoint                      ONE signed head (tlog-checkpoint), with its cosignatures
    policy                          the policy that the log publishes: for reading, not for trust
    events/000000000017.leaf.json   the exact leaf bytes of the entry at index 17
    events/000000000017.tlog-proof  that they are in the tree of that head (c2sp.org/tlog-proof)
    …
    manifest.json                   how many events, and SHA-256 over their leaf hashes in order

The manifest is written last, so a file that was cut short has none. Nobody signed it: it shows that
the file is whole, and the proofs show that each event is in the log. That no other event answers
the question is on the word of the service that was asked; whoever has the log can ask it again.

Written a piece at a time, in constant memory but for some hundred bytes an event, which is why
there is a limit on events.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import Hash, leaf_hash
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.proof import PROOF_BYTES_MAX, parse_proof
from ledger_core.tlog.text import decode_text, excerpt
from ledger_core.tlog.tile import LEAF_BYTES_MAX
from ledger_core.tlog.verify import check_inclusion

EVENTS_MAX: Final = 20_000
"""Two files each and the fixed ones stay below the 65,535 that every reader of .zip can count."""

CHUNK_BYTES: Final = 1 << 16
FAULTS_MAX: Final = 20
MANIFEST_BYTES_MAX: Final = 1 << 16

README: Final = "README.txt"
QUERY: Final = "query.txt"
CHECKPOINT: Final = "checkpoint"
POLICY: Final = "policy"
MANIFEST: Final = "manifest.json"
FIXED: Final = frozenset({README, QUERY, CHECKPOINT, POLICY, MANIFEST})

_UNREADABLE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,  # It is encrypted.
    ValueError,
)

_DATE: Final = (1980, 1, 1, 0, 0, 0)
"""The times of files say nothing: one export made twice gives the same bytes."""

_README_TEXT: Final = """\
Evidence from the audit log {origin}

This file holds the answer to a question that was put to the log when it had {tree_size} entries.
The question, as the log understood it, is in query.txt.

events/N.leaf.json      entry number N, exactly as the log holds it: who did what, when, from where
events/N.tlog-proof     the proof that this entry is in the log (c2sp.org/tlog-proof)
checkpoint              the head of the log, signed by it and cosigned by its witnesses
policy                  the keys of the log and its witnesses, as the log publishes them
manifest.json           how many entries there are, to see that none is missing

To verify, offline, with nothing but this file and a policy that you trust:

    pip install witnessed-ledger
    ledger verify THIS-FILE.zip --policy YOUR-POLICY

The policy must come from the operator of the log, or from a witness, by a way that you trust. The
one in here was written by whoever wrote this file, so it is for reading alone.

Each proof is a file of its own and can be checked with any tool for tlog-proof:
SHA-256(0x00 || leaf bytes) is the hash of the leaf.

What is shown: each entry was in the log before the head was signed, and not a byte of it has
changed since. What is not shown: that no other entry answers the question.
"""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file should hold."""

    v: Literal[1] = 1
    query: str
    tree_size: Annotated[int, msgspec.Meta(ge=0)]
    events: Annotated[int, msgspec.Meta(ge=0, le=EVENTS_MAX)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceEvent:
    """An entry and its tlog-proof against the head of the file."""

    index: int
    leaf: bytes
    proof: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A file that was read: what stood in it, and each fault, by the file's name."""

    manifest: Manifest
    head: VerifiedHead
    indices: tuple[int, ...]
    policy_differs: bool
    faults: tuple[str, ...] = field(default=())


def write_evidence(
    events: Iterable[EvidenceEvent],
    *,
    query: str,
    origin: str,
    tree_size: int,
    checkpoint: str,
    policy: str,
) -> Iterator[bytes]:
    """The .zip, a piece at a time. Precondition: at most EVENTS_MAX events, each index once."""
    sink = _Sink()
    sha256 = hashlib.sha256()
    count = 0
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        readme = _README_TEXT.format(origin=origin, tree_size=tree_size)
        for name, text in (
            (README, readme),
            (QUERY, f"{query}\n"),
            (CHECKPOINT, checkpoint),
            (POLICY, policy),
        ):
            _add(archive, name, text.encode())
        for event in events:
            stem = event_stem(event.index)
            _add(archive, f"{stem}.leaf.json", event.leaf)
            _add(archive, f"{stem}.tlog-proof", event.proof.encode())
            sha256.update(leaf_hash(event.leaf))
            count += 1
            if sink.waiting_bytes >= CHUNK_BYTES:
                yield sink.take()
        manifest = Manifest(
            query=query, tree_size=tree_size, events=count, sha256=sha256.hexdigest()
        )
        _add(archive, MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    yield sink.take()


def event_stem(index: int) -> str:
    """The name of an event's two files, but for the ending; they sort by index."""
    return f"events/{index:012d}"


def check_evidence(path: Path, policy: Policy) -> Evidence:
    """Verify a file offline: its head by the policy, and each event by its proof.

    Raises: MalformedError for what is no such file; VerificationError when its head does not meet
    the policy. What is wrong with single events stands in `faults`, each with the file's name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _check(archive, policy)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        if isinstance(error, MalformedError):
            raise
        raise MalformedError(f"{path.name} is not a whole .zip: {error}") from None


def _check(archive: zipfile.ZipFile, policy: Policy) -> Evidence:
    names = archive.namelist()
    if len(names) > 2 * EVENTS_MAX + len(FIXED):
        raise MalformedError(f"got {len(names)} files, want {EVENTS_MAX} events at most")
    if len(set(names)) != len(names):
        raise MalformedError("a name stands twice in it")
    missing = sorted(FIXED.difference(names))
    if missing:
        raise MalformedError(f"not evidence, or cut short: {', '.join(missing)} is missing")
    manifest = _read_manifest(_read(archive, MANIFEST, MANIFEST_BYTES_MAX))
    note = decode_text(_read(archive, CHECKPOINT, PROOF_BYTES_MAX))
    try:
        head = policy.check(note)
    except VerificationError as error:
        raise VerificationError(f"{CHECKPOINT}: {error}", evidence=error.evidence) from error
    faults = _Faults()
    if head.checkpoint.tree_size != manifest.tree_size:
        faults.add(
            MANIFEST,
            f"the tree has size {manifest.tree_size} there, and {head.checkpoint.tree_size} in the "
            f"{CHECKPOINT}",
        )
    indices, hashes = _check_events(archive, names, head, faults)
    if len(hashes) != manifest.events:
        faults.add(MANIFEST, f"got {len(hashes)} events, want {manifest.events}")
    elif not faults and hashlib.sha256(b"".join(hashes)).hexdigest() != manifest.sha256:
        faults.add(MANIFEST, "the events are not those that it was written for")
    return Evidence(
        manifest=manifest,
        head=head,
        indices=tuple(indices),
        policy_differs=_policy_differs(archive, policy),
        faults=tuple(faults),
    )


def _check_events(
    archive: zipfile.ZipFile, names: list[str], head: VerifiedHead, faults: "_Faults"
) -> tuple[list[int], list[Hash]]:
    """The indices and leaf hashes, in the order of the file; what is wrong goes to `faults`."""
    stems: dict[str, set[str]] = {}
    for name in names:
        stem, _, ending = name.partition(".")
        if name in FIXED:
            continue
        if not stem.startswith("events/") or ending not in ("leaf.json", "tlog-proof"):
            faults.add(excerpt(name), "does not belong here")
            continue
        stems.setdefault(stem, set()).add(ending)
    indices, hashes = [], []
    for stem, endings in stems.items():
        if len(endings) != 2:  # noqa: PLR2004 - a leaf and its proof
            there = next(iter(endings))
            faults.add(f"{stem}.{there}", "stands alone: want a leaf and its proof")
            continue
        leaf = _read_limited(archive, f"{stem}.leaf.json", LEAF_BYTES_MAX, faults)
        proof = _read_limited(archive, f"{stem}.tlog-proof", PROOF_BYTES_MAX, faults)
        if leaf is None or proof is None:
            continue
        hashes.append(leaf_hash(leaf))
        index = _check_event(stem, leaf, proof, head, faults)
        if index is not None:
            indices.append(index)
    return indices, hashes


def _check_event(
    stem: str, leaf: bytes, proof_bytes: bytes, head: VerifiedHead, faults: "_Faults"
) -> int | None:
    """The index of an event that is in the head's tree."""
    try:
        proof = parse_proof(proof_bytes)
        _check_same(f"{stem}.tlog-proof is of", event_stem(proof.leaf_index), stem)
        _check_same("the proof is against the head", proof.checkpoint, head.note)
        check_inclusion(
            leaf_hash=leaf_hash(leaf),
            leaf_index=proof.leaf_index,
            tree_size=head.checkpoint.tree_size,
            proof=proof.hashes,
            root_hash=head.checkpoint.root_hash,
        )
    except (MalformedError, VerificationError) as error:
        faults.add(f"{stem}.leaf.json", str(error))
        return None
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
    """Whether the log's own keys in the file are others than those that were trusted."""
    text = _read(archive, POLICY, PROOF_BYTES_MAX).decode(errors="replace")
    return not any(str(log.verifier) in text for log in policy.logs)


def _read_limited(
    archive: zipfile.ZipFile, name: str, bytes_max: int, faults: "_Faults"
) -> bytes | None:
    try:
        return _read(archive, name, bytes_max)
    except MalformedError as error:
        faults.add(excerpt(name), str(error))
        return None


def _read(archive: zipfile.ZipFile, name: str, bytes_max: int) -> bytes:
    """A file, not longer than it may be, whatever the archive says of its size."""
    try:
        with archive.open(name) as file:
            data = file.read(bytes_max + 1)
    except _UNREADABLE as error:
        raise MalformedError(f"{excerpt(name)} can't be read: {error}") from None
    if len(data) > bytes_max:
        raise MalformedError(f"{excerpt(name)} is longer than {bytes_max} bytes")
    return data


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


class _Faults(list[str]):
    """What is wrong, up to a number."""

    def add(self, name: str, reason: str) -> None:
        if len(self) < FAULTS_MAX:
            self.append(f"{name}: {reason}")
        elif len(self) == FAULTS_MAX:
            self.append("and more")


class _Sink:
    """What zipfile writes to when nothing can be sought: bytes that wait to be taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.waiting_bytes = 0

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        self.waiting_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """There is nothing below."""

    def close(self) -> None:
        """Nor here."""

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self.waiting_bytes = 0
        return data
