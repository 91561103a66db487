"""Bundles of the second edition from a small log in memory, and changed ones."""

import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ledger_core.event.canonical import encode_event, format_leaf
from ledger_core.event.commitments import Opening
from ledger_core.event.times import format_time
from ledger_core.evidence.layout import ACTION
from ledger_core.evidence.page import Asked
from ledger_core.evidence.writer import EvidenceWriter, Sources
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.proof import format_proof
from ledger_core.tlog.prove import plan_multi
from tests.client.hosts import (
    ENTRIES_SINCE_UNIX_US,
    READER,
    W1,
    W2,
    cosigned,
    entries,
    event_id,
    quorum_policy,
)
from tests.client.trees import ORIGIN, SmallLog

Files = dict[str, bytes]
Change = Callable[[Files], object]

SIZE = 300
POLICY_TEXT_RULE = "group g 2 w1 w2 w3\nquorum g"
SINCE_S = ENTRIES_SINCE_UNIX_US // 10**6


def leaf_of(fields: dict[str, Any], *, at: int, by: str = "ledger") -> bytes:
    """The leaf of an event, received `at` seconds after the first entry."""
    event = READER.read_object(fields).event
    time = format_time(ENTRIES_SINCE_UNIX_US + at * 10**6)
    return format_leaf(event_json=encode_event(event), by=by, received_time=time)


@dataclass
class Maker:
    """Makes bundles of the first `size` entries of a log, whose heads at `kept` sizes it keeps."""

    leaves: list[bytes] = field(default_factory=lambda: entries(SIZE))
    size: int = SIZE
    kept: Sequence[int] = (50, 100, 200, 299)
    key: str = "a key"
    witnesses: int = 2
    asked: dict[str, Any] = field(default_factory=dict)
    openings: dict[int, list[Opening]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = SmallLog(self.leaves, key=self.key)
        self.policy = quorum_policy(self.log)

    def head(self, size: int, log: SmallLog | None = None) -> SignedCheckpoint:
        """The head of a size; two witnesses cosigned it 3 s after its last entry was received."""
        note = (log or self.log).note(size)
        times = ((W1, SINCE_S + size + 2), (W2, SINCE_S + size + 3))
        return parse_signed_checkpoint(cosigned(note, *times[: self.witnesses]))

    @property
    def policy_text(self) -> str:
        """The policy with its quorum, as the log publishes it."""
        lines = [f"log {self.log.signer.verifier}"]
        lines += [f"witness {w.name} {w.verifier}" for w in self.policy.witnesses]
        return "\n".join((*lines, POLICY_TEXT_RULE, ""))

    def write(
        self,
        path: Path,
        indices: Iterable[int] = (3, 60, 61, 62, 150, 299),
        *,
        is_proven: bool = True,
    ) -> Path:
        """Write the bundle with the events at some indices."""
        asked = Asked(
            **{
                "origin": ORIGIN,
                "tree_size": self.size,
                "query": "actor:u_1",
                "token": "auditor",
                "time": format_time(ENTRIES_SINCE_UNIX_US + 10**9),
                "case": "INC-7",
                "reason": "stolen account",
                **self.asked,
            }
        )
        writer = EvidenceWriter(
            asked,
            Sources(prove=self.prove, first_head=self.first_head, consistency=self.consistency),
            head=self.head(self.size),
            policy=self.policy_text,
        )
        for index in indices:
            writer.add(index, self.leaves[index], self.openings.get(index, ()))
        statement = leaf_of(self.event(asked, writer.state()), at=1001)
        if is_proven:
            grown = SmallLog([*self.leaves[: self.size], b"{}", statement, b"{}"], key=self.key)
            self.grown = grown
            head = self.head(self.size + 3, grown)
            proof = grown.proof(self.size + 1, self.size + 3)
            text = format_proof(type(proof)(proof.leaf_index, proof.hashes, head.note))
            writer.finish(statement, proof=text, head=head)
        else:
            writer.finish(statement, missing="the witnesses are away")
        path.write_bytes(writer.drain())
        return path

    def event(self, asked: Asked, stated: dict[str, Any]) -> dict[str, Any]:
        """The event that records the export."""
        event: dict[str, Any] = {
            "id": event_id(SIZE + 1),
            "time": asked.time,
            "actor": {"type": "ledger.token", "id": asked.token},
            "action": ACTION,
            "outcome": "success",
            "reason": asked.reason,
            "targets": [{"type": "case", "id": asked.case}],
            "context": {"evidence": stated},
        }
        return event | ({"tenant": asked.tenant} if asked.tenant else {})

    def prove(self, indices: Sequence[int]) -> tuple[Hash, ...]:
        """The multi-proof of some entries."""
        return self.log._finish(plan_multi(indices=indices, tree_size=self.size))

    def first_head(self, size: int) -> SignedCheckpoint | None:
        """The smallest kept head of at least a size."""
        found = [each for each in (*self.kept, self.size) if each >= size]
        return self.head(found[0]) if found else None

    def consistency(self, old: int, new: int) -> tuple[Hash, ...]:
        """The consistency proof between two sizes; the larger may be that of the statement."""
        return (self.grown if new > self.size else self.log).consistency(old, new).hashes


def files_of(path: Path) -> Files:
    """The files of a bundle by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, files: Files) -> Path:
    """A new .zip of files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def changed(path: Path, change: Change) -> Path:
    """A bundle beside another one, with changed files."""
    files = dict(files_of(path))
    change(files)
    return pack(path.with_name(f"changed-{path.name}"), files)


def edit_json(files: Files, name: str, **members: Any) -> None:
    """Replace members of a JSON file."""
    files[name] = msgspec.json.encode(msgspec.json.decode(files[name]) | members)
