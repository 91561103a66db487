"""Writes a bundle of evidence piece by piece, in constant memory.

    writer = EvidenceWriter(asked, sources)
    for index, leaf in found:              # ascending
        writer.add(index, leaf)
        yield writer.drain()
    stated = writer.state()                # the caller appends it to the log
    writer.finish(leaf=…, head=…)
    yield writer.drain()

What the writer needs of the log it asks through `Sources`: it does no I/O itself.
"""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ledger_core.event.commitments import Opening
from ledger_core.evidence.layout import (
    CHECKPOINT,
    EVENTS_PER_HEAD,
    HEADS,
    HEADS_FREE,
    INDEX,
    LANGUAGE,
    MANIFEST,
    PART_BYTES,
    PART_EVENTS,
    PARTS_MAX,
    POLICY,
    PRIVATE_BYTES,
    QUERY,
    README,
    STATEMENT,
    STATEMENT_PROOF,
    DisclosedLine,
    HeadLine,
    Manifest,
    Statement,
    leaves_name,
    private_name,
    proof_name,
    to_object,
)
from ledger_core.evidence.page import Asked, PageWriter, format_readme
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.hashing import Hash, leaf_hash
from ledger_core.tlog.multi_proof import MultiProof, format_multi_proof
from ledger_core.tlog.text import format_base64

_DATE: Final = (1980, 1, 1, 0, 0, 0)
"""A fixed time for each file: the time of the export is that of the statement."""


class TooManyPartsError(ValueError):
    """More events than a bundle holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The reads of the log that the writer needs.

    `prove` gives the multi-proof of ascending indices in the tree of the head, `first_head` the
    kept head with the smallest size of at least a number, `consistency` the proof from one size to
    a larger one. `minimum_index`: the first entry that was not pruned.
    """

    prove: Callable[[Sequence[int]], tuple[Hash, ...]]
    first_head: Callable[[int], SignedCheckpoint | None]
    consistency: Callable[[int, int], tuple[Hash, ...]]
    minimum_index: int = 0


@dataclass(slots=True)
class _Part:
    """The part that is being filled."""

    indices: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    size_bytes: int = 0
    private: list[bytes] = field(default_factory=list)
    private_bytes: int = 0


class EvidenceWriter:
    """Writes one bundle. Mutable; `take` gives the bytes that are ready."""

    def __init__(self, asked: Asked, sources: Sources, *, head: SignedCheckpoint, policy: str):
        self._asked: Final = asked
        self._sources: Final = sources
        self._head: Final = head
        self._sink: Final = _Sink()
        self._archive: Final = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_DEFLATED)
        self._page: Final = PageWriter(asked)
        self._files: Final[dict[str, str]] = {}
        self._chain: Final = hashlib.sha256()
        self._heads: Final[list[SignedCheckpoint]] = []
        self._are_heads_chosen = not any(
            signature.name != head.checkpoint.origin for signature in head.signatures
        )
        """Whether no further head is of use. Without a witness no head states a time."""
        self._part = _Part()
        self._parts = self._events = self._disclosed = 0
        self._add_stated(README, format_readme(asked))
        self._add_stated(QUERY, f"{asked.query}\n")
        self._add_stated(POLICY, policy)
        self._add(CHECKPOINT, head.note.encode())

    def add(self, index: int, leaf: bytes, openings: Sequence[Opening] = ()) -> None:
        """Add the next event. Raises: TooManyPartsError when the bundle is full."""
        self._chain.update(leaf_hash(leaf))
        self._page.add(index, leaf)
        self._choose_head(index)
        part = self._part
        part.indices.append(index)
        part.lines.append(leaf)
        part.size_bytes += len(leaf) + 1
        for each in openings:
            line = DisclosedLine(index=index, path=each.path, salt=each.salt, value=each.value)
            part.private.append(msgspec.json.encode(line))
            part.private_bytes += len(part.private[-1]) + 1
        self._disclosed += len(openings)
        self._events += 1
        is_full = part.size_bytes >= PART_BYTES or part.private_bytes >= PRIVATE_BYTES
        if is_full or len(part.indices) == PART_EVENTS:
            self._close_part()

    def state(self) -> dict[str, Any]:
        """The statement, `context.evidence` of the event that the log must take in now."""
        if self._part.indices:
            self._close_part()
        self._add_stated(INDEX, self._page.finish())
        statement = Statement(
            v=2,
            query=self._asked.query,
            order="oldest",
            fields="all",
            tree_size=self._head.head.tree_size,
            root_hash=format_base64(self._head.head.root_hash),
            total=self._events,
            leaf_hashes_sha256=self._chain.hexdigest(),
            files=self._files,
            disclose=self._asked.disclose,
            disclosed=self._disclosed,
            language=LANGUAGE,
            minimum_index=self._sources.minimum_index,
        )
        return to_object(statement)

    def finish(
        self,
        leaf: bytes,
        *,
        proof: str = "",
        head: SignedCheckpoint | None = None,
        missing: str = "",
    ) -> None:
        """End the bundle with the statement's leaf, and its tlog-proof against a later head.

        Without a head, `missing` says why there is none.
        """
        self._add(STATEMENT, leaf)
        heads = list(self._heads)
        if head is not None:
            self._add(STATEMENT_PROOF, proof.encode())
            heads.append(head)
        self._add(HEADS, b"".join(map(self._head_line, heads)))
        manifest = Manifest(
            events=self._events,
            parts=self._parts,
            disclosed=self._disclosed,
            statement_missing=missing[:2000],
        )
        self._add(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        self._archive.close()

    def drain(self) -> bytes:
        """The bytes since the last call."""
        return self._sink.drain()

    def _choose_head(self, index: int) -> None:
        """Take the earliest head that covers an event, unless one is chosen or all are used up."""
        if self._are_heads_chosen:
            return
        if self._heads and index < self._heads[-1].head.tree_size:
            return
        if len(self._heads) >= HEADS_FREE + self._events // EVENTS_PER_HEAD:
            return
        found = self._sources.first_head(index + 1)
        size = self._head.head.tree_size
        self._are_heads_chosen = found is None or found.head.tree_size >= size
        # The bundle's own head may be a renewal, whose cosignatures are later than the first.
        if found and found.head.tree_size <= size and found.note != self._head.note:
            self._heads.append(found)

    def _head_line(self, head: SignedCheckpoint) -> bytes:
        sizes = sorted((head.head.tree_size, self._head.head.tree_size))
        hashes = self._sources.consistency(*sizes) if sizes[0] < sizes[1] else ()
        line = HeadLine(checkpoint=head.note, hashes=tuple(map(format_base64, hashes)))
        return msgspec.json.encode(line) + b"\n"

    def _close_part(self) -> None:
        if self._parts == PARTS_MAX:
            raise TooManyPartsError(f"a bundle has at most {PARTS_MAX} parts")
        part, self._part = self._part, _Part()
        self._add(leaves_name(self._parts), b"\n".join((*part.lines, b"")))
        proof = MultiProof(part.indices, self._sources.prove(part.indices))
        self._add(proof_name(self._parts), format_multi_proof(proof).encode())
        if part.private:
            self._add(private_name(self._parts), b"\n".join((*part.private, b"")))
        self._parts += 1

    def _add_stated(self, name: str, text: str) -> None:
        data = text.encode()
        self._files[name] = hashlib.sha256(data).hexdigest()
        self._add(name, data)

    def _add(self, name: str, data: bytes) -> None:
        info = zipfile.ZipInfo(name, _DATE)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        self._archive.writestr(info, data)


class _Sink:
    """The unseekable file that zipfile writes to: it holds bytes until `take` removes them."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is no file below."""

    def close(self) -> None:
        """Do nothing: there is no file below."""

    def drain(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data
