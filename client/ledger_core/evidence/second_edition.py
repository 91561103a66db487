"""Checks a bundle of today: its parts against its head, and all of it against the statement."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from typing import Any, Final

import msgspec

from ledger_core.event.canonical import Leaf, parse_leaf
from ledger_core.event.commitments import commitment_to, decode_salt, encode_salt, find_commitments
from ledger_core.event.model import EventError
from ledger_core.event.times import parse_time
from ledger_core.evidence.archive import Archive, is_junk
from ledger_core.evidence.findings import Evidence, Existed, Findings, StatedExport
from ledger_core.evidence.layout import (
    ACTION,
    CHECKPOINT,
    FIXED,
    HEAD_LINE_BYTES_MAX,
    HEADS,
    MANIFEST,
    PART_BYTES_MAX,
    PART_EVENTS,
    PRIVATE_BYTES_MAX,
    PROOF_BYTES_MAX,
    SERVICE_NAME,
    STATED,
    STATED_BYTES_MAX,
    STATEMENT,
    STATEMENT_PROOF,
    DisclosedLine,
    HeadLine,
    Manifest,
    Statement,
    decode_disclosed,
    leaves_name,
    private_name,
    proof_name,
)
from ledger_core.evidence.question import ask
from ledger_core.query.analyzer import decode_view
from ledger_core.query.ast import MICROSECONDS
from ledger_core.tlog.checkpoint import Checkpoint, parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, UnlistedKeyError, VerificationError
from ledger_core.tlog.hashing import Hash, leaf_hash
from ledger_core.tlog.multi_proof import parse_multi_proof
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.proof import PROOF_BYTES_MAX as TLOG_PROOF_BYTES_MAX
from ledger_core.tlog.proof import check_leaf, parse_proof
from ledger_core.tlog.text import excerpt, parse_hash
from ledger_core.tlog.tile import LEAF_BYTES_MAX
from ledger_core.tlog.verify import check_consistency, check_multi

OnEvent = Callable[[int, bytes], object]
"""Called with index and leaf of each event that is proven."""

_Untrue = (MalformedError, VerificationError, EventError)
_decode_head: Final = msgspec.json.Decoder(HeadLine).decode


class SecondEdition:
    """The check of one bundle; `check` runs it."""

    def __init__(
        self,
        archive: Archive,
        manifest: Manifest,
        head: VerifiedHead,
        policy: Policy,
        findings: Findings,
        on_event: OnEvent,
    ) -> None:
        self._archive = archive
        self._manifest = manifest
        self._head = head
        self._policy = policy
        self._findings = findings
        self._on_event = on_event
        self._chain = hashlib.sha256()
        self._events = self._disclosed = 0
        self._span: tuple[int, int] | None = None
        self._last = -1

    def check(self) -> Evidence:
        """Check all of it. Raises: MalformedError where the statement is not one."""
        stated = self._read_statement()
        heads = self._read_heads()
        if stated.head is not None:
            proven = heads.get(stated.head.checkpoint.tree_size)
            if proven is None or proven.checkpoint != stated.head.checkpoint:
                what = "nothing shows that the statement's tree begins with that of the events"
                self._findings.add_fault(HEADS, what)
        self._question = ask(
            stated.statement.query, stated.tenant, language=stated.statement.language
        )
        self._existed = _ExistedBefore(heads)
        self._check_names()
        for number in range(self._manifest.parts):
            self._check_part(number)
        self._check_statement(stated.statement)
        for name in STATED:
            self._check_stated(name, stated.statement)
        return Evidence(
            edition=2,
            query=stated.statement.query,
            head=self._head,
            events=self._events,
            span=self._span,
            unevaluated=self._question.unevaluated(),
            existed=self._existed.finish(self._last),
            stated=stated,
            disclosed=self._disclosed,
            faults=tuple(self._findings.faults),
            notes=tuple(self._findings.notes),
        )

    def _read_statement(self) -> StatedExport:
        """The statement, and the head that proves it if there is one."""
        leaf_bytes = self._archive.read(STATEMENT, LEAF_BYTES_MAX)
        try:
            stated = parse_statement(parse_leaf(leaf_bytes))
        except MalformedError as error:
            raise MalformedError(f"{STATEMENT}: {error}") from None
        if STATEMENT_PROOF not in self._archive.names:
            if not self._manifest.statement_missing:
                self._findings.add_fault(STATEMENT_PROOF, "is missing")
            return replace(stated, missing=self._manifest.statement_missing)
        try:
            proof = parse_proof(self._archive.read(STATEMENT_PROOF, TLOG_PROOF_BYTES_MAX))
            head = self._policy.check(proof.checkpoint)
            if head.checkpoint.origin != self._head.checkpoint.origin:
                raise VerificationError(f"it is of the log {head.checkpoint.origin}")
            check_leaf(proof, leaf_hash(leaf_bytes), head)
        except _Untrue as error:
            self._findings.add_fault(STATEMENT_PROOF, str(error))
            return replace(stated, missing="its proof is false")
        return replace(stated, index=proof.leaf_index, head=head)

    def _read_heads(self) -> dict[int, VerifiedHead]:
        """By size the heads that meet the policy and are of one tree with the bundle's."""
        heads = {self._head.checkpoint.tree_size: self._head}
        last, refused = -1, 0
        try:
            for line in self._archive.lines(HEADS, HEAD_LINE_BYTES_MAX):
                each = _decode_head(line)
                head = self._check_head(each.checkpoint)
                checkpoint = parse_signed_checkpoint(each.checkpoint).checkpoint
                size = checkpoint.tree_size
                if size <= last:
                    raise VerificationError(f"the sizes do not ascend: {size} after {last}")
                last = size
                self._check_consistent(checkpoint, each)
                refused += head is None
                # A head is published again with later cosignatures: the first ones count.
                if head and _stated_unix_s(head) <= _stated_unix_s(heads.get(size)):
                    heads[size] = head
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._findings.add_fault(HEADS, "a line is not a head and its proof")
        except _Untrue as error:
            self._findings.add_fault(HEADS, str(error))
        if refused:
            self._findings.add_note(
                f"{refused} of the earlier heads do not meet your policy and show no time"
            )
        return heads

    def _check_head(self, note: str) -> VerifiedHead | None:
        """A head that meets the policy; None without the quorum, or by another key of the log.

        Before the log's key was rotated, its heads were signed by one that the policy may not list.
        """
        try:
            return self._policy.check(note)
        except UnlistedKeyError:
            return None
        except VerificationError:
            replace(self._policy, quorum=None).check(note)
            return None

    def _check_consistent(self, checkpoint: Checkpoint, line: HeadLine) -> None:
        if checkpoint.origin != self._head.checkpoint.origin:
            raise VerificationError(f"a head is of the log {checkpoint.origin}")
        old, new = sorted(
            (checkpoint, self._head.checkpoint), key=lambda checkpoint: checkpoint.tree_size
        )
        check_consistency(
            old_size=old.tree_size,
            new_size=new.tree_size,
            proof=tuple(map(parse_hash, line.hashes)),
            old_root=old.root_hash,
            new_root=new.root_hash,
        )

    def _check_names(self) -> None:
        allowed = {*FIXED, STATEMENT_PROOF}
        for number in range(self._manifest.parts):
            allowed |= {leaves_name(number), proof_name(number), private_name(number)}
        for name in self._archive.names:
            if name in allowed:
                continue
            if is_junk(name):
                self._findings.add_note(f"{excerpt(name)} was added by a desktop")
            else:
                self._findings.add_fault(excerpt(name), "does not belong here")

    def _check_part(self, number: int) -> None:
        """Check the leaves of a part by its proof, and each of them by the query."""
        name = leaves_name(number)
        try:
            leaves = self._read_leaves(name)
            hashes = list(map(leaf_hash, leaves))
            self._chain.update(b"".join(hashes))
            self._events += len(leaves)
            indices = self._prove(number, hashes)
        except _Untrue as error:
            self._findings.add_fault(name, str(error))
            return
        self._span = (self._span[0] if self._span else indices[0], indices[-1])
        self._last = indices[-1]
        question, on_event, existed = self._question, self._on_event, self._existed
        for index, leaf in zip(indices, leaves, strict=True):
            try:
                question.check(index, leaf)
                if index >= existed.covered:
                    existed.add(index, leaf)
                on_event(index, leaf)
            except VerificationError as error:
                self._findings.add_fault(name, str(error))
        if private_name(number) in self._archive.names:
            self._check_private(private_name(number), dict(zip(indices, leaves, strict=True)))

    def _read_leaves(self, name: str) -> list[bytes]:
        *leaves, rest = self._archive.read(name, PART_BYTES_MAX).split(b"\n")
        if rest or not 1 <= len(leaves) <= PART_EVENTS:
            raise MalformedError(f"want 1 to {PART_EVENTS} leaves, each a line")
        return leaves

    def _prove(self, number: int, hashes: list[Hash]) -> list[int]:
        """The indices at which the leaves of a part are in the tree of the head."""
        data = self._archive.read(proof_name(number), PROOF_BYTES_MAX)
        proof = parse_multi_proof(data, leaves_max=PART_EVENTS)
        indices = list(proof.indices)
        if indices[0] <= self._last:
            raise VerificationError(f"entry {indices[0]} stands after entry {self._last}")
        check_multi(
            leaf_hashes=hashes,
            indices=indices,
            tree_size=self._head.checkpoint.tree_size,
            proof=proof.hashes,
            root_hash=self._head.checkpoint.root_hash,
        )
        return indices

    def _check_private(self, name: str, leaves: dict[int, bytes]) -> None:
        """Check each disclosed value against the commitment in its event."""
        seen: set[tuple[int, str]] = set()
        committed: dict[int, dict[str, str]] = {}
        try:
            for line in self._archive.read(name, PRIVATE_BYTES_MAX).splitlines():
                self._disclosed += 1
                value = decode_disclosed(line)
                if value.index not in committed:
                    committed[value.index] = _commitments(value.index, leaves)
                _check_opening(value, committed[value.index])
                # One that stands twice could take the place of one that was left out.
                if (place := (value.index, value.path)) in seen:
                    raise VerificationError(f"the value at {excerpt(value.path)} stands twice")
                seen.add(place)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._findings.add_fault(name, "a line is not a disclosed value")
        except _Untrue as error:
            self._findings.add_fault(name, str(error))

    def _check_statement(self, statement: Statement) -> None:
        """Hold what the log states against what the bundle holds."""
        if statement.minimum_index:
            self._findings.add_note(
                f"the entries below index {statement.minimum_index:,} were pruned before the "
                "export, so it says nothing about them"
            )
        head = self._head.checkpoint
        stated = (statement.tree_size, statement.root_hash)
        wanted = (head.tree_size, parse_hash(statement.root_hash))
        if (stated[0], head.root_hash) != wanted:
            self._findings.add_fault(
                STATEMENT, f"it is about another tree, of size {stated[0]}, than the {CHECKPOINT}"
            )
        for what, got, want in (
            ("events", self._events, statement.total),
            ("disclosed values", self._disclosed, statement.disclosed),
        ):
            if got != want:
                self._findings.add_fault(STATEMENT, f"got {got:,} {what}, it states {want:,}")
        if (
            self._events == statement.total
            and self._chain.hexdigest() != statement.leaf_hashes_sha256
        ):
            self._findings.add_fault(STATEMENT, "it states other events")
        for what, got, want in (
            ("events", self._manifest.events, self._events),
            ("disclosed values", self._manifest.disclosed, self._disclosed),
        ):
            if got != want:
                self._findings.add_fault(MANIFEST, f"it has {got:,} {what}, the bundle {want:,}")
        if set(statement.files) != set(STATED):
            self._findings.add_fault(STATEMENT, "it names other files")

    def _check_stated(self, name: str, statement: Statement) -> None:
        try:
            if self._archive.sha256(name, STATED_BYTES_MAX) != statement.files.get(name):
                self._findings.add_fault(name, f"was changed: {STATEMENT} has another hash of it")
        except MalformedError as error:
            self._findings.add_fault(name, str(error))


def _stated_unix_s(head: VerifiedHead | None) -> float:
    """The time by which a quorum had cosigned; infinite where it stated none."""
    before = None if head is None else head.existed_before_unix_s
    return inf if before is None else before


class _ExistedBefore:
    """Follows ascending events through the heads, and takes the times that these show."""

    def __init__(self, heads: dict[int, VerifiedHead]) -> None:
        self._sizes: Iterator[tuple[int, int | None]] = iter(
            (size, heads[size].existed_before_unix_s) for size in sorted(heads)
        )
        self.covered = 0
        """All entries below are covered by the head that was taken last."""
        self._first: int | None = None
        self._before: int | None = None
        self._delay_s = 0.0

    def add(self, index: int, leaf: bytes) -> None:
        """Take the next head that covers an entry. Later entries were received no earlier."""
        for size, before in self._sizes:
            if size > index and before is not None:
                self.covered, self._before = size, before
                break
        else:
            return
        if self._first is None:
            self._first = self._before
        received = parse_time(decode_view(leaf).received.time) / MICROSECONDS
        self._delay_s = max(self._delay_s, before - received)

    def finish(self, last_index: int) -> Existed | None:
        """The times of all events; None where a head states none."""
        if self._first is None or self._before is None or last_index >= self.covered:
            return None
        return Existed(
            first_unix_s=self._first, last_unix_s=self._before, delay_s_max=self._delay_s
        )


def parse_statement(leaf: Leaf) -> StatedExport:
    """The export that an entry of the log records. Raises: MalformedError for another entry."""
    event = leaf.event
    context: dict[str, Any] = event.context or {}
    if event.action != ACTION or leaf.received.by != SERVICE_NAME:
        raise MalformedError("not the log's own record of an export")
    try:
        statement = msgspec.convert(context.get("evidence"), Statement)
    except msgspec.ValidationError as error:
        raise MalformedError(f"not a statement: {error}") from None
    parse_hash(statement.root_hash)
    return StatedExport(
        statement=statement,
        token=event.actor.id,
        time=event.time or "",
        received=leaf.received.time,
        case=event.targets[0].id if event.targets else None,
        reason=event.reason or None,
        tenant=event.tenant or None,
    )


def _commitments(index: int, leaves: dict[int, bytes]) -> dict[str, str]:
    """The commitments in an event by their paths: found once, however many values are disclosed."""
    leaf = leaves.get(index)
    if leaf is None:
        raise VerificationError(f"a value of entry {index}, which is not in its part")
    return {
        found.path: found.hash for found in find_commitments(msgspec.json.decode(leaf)["event"])
    }


def _check_opening(line: DisclosedLine, wanted: dict[str, str]) -> None:
    try:
        salt = decode_salt(line.salt)
        got = commitment_to(salt=salt, path=line.path, value=line.value)
    except ValueError as error:
        raise MalformedError(f"the value at {excerpt(line.path)}: {error}") from None
    if wanted.get(line.path) != got or encode_salt(salt) != line.salt:
        raise VerificationError(
            f"the value at {excerpt(line.path)} does not open the commitment in entry {line.index}"
        )
