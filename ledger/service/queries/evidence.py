"""The work of evidence: writes the bundle piece by piece, its end with the statement's entry."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ledger.query.answer import Row
from ledger.service.http.problems import ProblemError
from ledger.service.queries.job import QueryJob
from ledger.store.stored_log import StoredLog
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.commitments import Opening, find_values
from ledger_core.evidence.page import Asked
from ledger_core.evidence.writer import EvidenceWriter, Sources, TooManyPartsError
from ledger_core.query.parser import parse_query
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.prove import plan_multi
from ledger_core.tlog.tree import Node, TreeHead

TURN_ROWS: Final = 2000
TURN_S: Final = 0.2
"""Rows or seconds after which an export leaves its thread to others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceExport:
    """One export: what was asked, and the tree that it is of."""

    asked: Asked
    now_unix_us: int
    head: SignedCheckpoint
    policy_text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementEntry:
    """The entry that states an export: its proof and the head, or why there are none yet."""

    leaf: bytes
    proof: str = ""
    head: SignedCheckpoint | None = None
    missing: str = ""


def write_evidence(
    job: QueryJob, export: EvidenceExport
) -> Generator[bytes | dict[str, Any], StatementEntry | None, None]:
    """Work: the bundle in pieces, an empty one when a turn ends before any is ready.

    When all events are found, it gives the statement about them, and is sent its entry of the log.
    Raises: ProblemError when the bundle is full.
    """
    tree = export.head.head
    sources = make_sources(job.store, tree)
    writer = EvidenceWriter(export.asked, sources, head=export.head, policy=export.policy_text)
    batches = job.engine.row_batches(
        parse_query(export.asked.query, is_long=True),
        tenant=export.asked.tenant,
        now_unix_us=export.now_unix_us,
        tree_size=tree.tree_size,
        is_cancelled=job.is_cancelled,
    )
    disclose = export.asked.disclose
    count, end_s = 0, time.monotonic() + TURN_S
    try:
        for rows in batches:
            for row in rows:
                writer.add(row.index, row.leaf, _openings(job, row, disclose) if disclose else ())
            count += len(rows)
            if count >= TURN_ROWS or time.monotonic() >= end_s:
                yield writer.drain()
                count, end_s = 0, time.monotonic() + TURN_S
    except TooManyPartsError as error:
        raise ProblemError("too-many-rows", str(error)) from None
    entry = yield writer.state()
    if entry is not None:
        writer.finish(entry.leaf, proof=entry.proof, head=entry.head, missing=entry.missing)
        yield writer.drain()


def _openings(job: QueryJob, row: Row, disclose: Sequence[str]) -> tuple[Opening, ...]:
    """The openings of an event's private values at some places, unless they were erased."""
    if b"commitment" not in row.leaf:
        return ()
    event_json = parse_leaf(row.leaf).event_json
    event = msgspec.json.decode(event_json)
    paths = {found[0] for path in disclose for found in find_values(event, path)}
    return tuple(each for each in job.open_values(event_json) if each.path in paths)


def make_sources(store: StoredLog, head: TreeHead) -> Sources:
    """The reads of a log that a writer of evidence needs, within a published head."""

    def prove(indices: Sequence[int]) -> tuple[Hash, ...]:
        plan = plan_multi(indices=indices, tree_size=head.tree_size)
        return store.prove(plan, [Node(0, index) for index in indices], head)

    def first_head(size: int) -> SignedCheckpoint | None:
        return next(iter(store.kept_heads(start=size, most=1)), None)

    def consistency(old_size: int, new_size: int) -> tuple[Hash, ...]:
        new = head if new_size == head.tree_size else store.head_at(new_size)
        return store.prove_consistency(old_size, new)

    return Sources(
        prove=prove,
        first_head=first_head,
        consistency=consistency,
        minimum_index=store.minimum_index,
    )
