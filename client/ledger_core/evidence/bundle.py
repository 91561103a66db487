"""Evidence to hand over: one .zip with events, and what shows that they are in a witnessed log.

    README.txt                      what this is and how to verify it
    query.txt                       the query
    checkpoint                      ONE signed head (tlog-checkpoint), with its cosignatures
    policy                          the policy that the log publishes: for reading, not for trust
    events/000000000017.leaf.json   the exact leaf bytes of the entry at index 17
    events/000000000017.tlog-proof  the proof that they are in the tree of that head
    …
    manifest.json                   how many events, and SHA-256 over their leaf hashes in order

The manifest is written last, so a file that was cut short has none. Nobody signed it: it shows that
the file is whole, and the proofs show that each event is in the log. Nothing in the file proves
that no other event matches the query. The service claims it, and anyone who has the log can run the
query again.

The file is written in pieces. Memory is constant but for some hundred bytes an event in the
directory of the .zip, so the number of events is limited.

Source: c2sp.org/tlog-proof for the proofs; the layout is our own.
"""

import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from ledger_core.tlog.hashing import leaf_hash

EVENTS_MAX: Final = 20_000
"""Two files each and the fixed ones stay below the 65,535 that every reader of .zip can count."""

CHUNK_BYTES: Final = 1 << 16

README: Final = "README.txt"
QUERY: Final = "query.txt"
CHECKPOINT: Final = "checkpoint"
POLICY: Final = "policy"
MANIFEST: Final = "manifest.json"
FIXED: Final = frozenset({README, QUERY, CHECKPOINT, POLICY, MANIFEST})
LEAF_ENDING: Final = ".leaf.json"
PROOF_ENDING: Final = ".tlog-proof"

_DATE: Final = (1980, 1, 1, 0, 0, 0)
"""A fixed time for each file, so that one export made twice gives the same bytes."""

_README_TEXT: Final = """\
Evidence from the audit log {origin}

This file holds the answer to a query of the log when it had {tree_size} entries. The query, as the
log understood it, is in query.txt.

events/N.leaf.json      entry number N, exactly as the log holds it
events/N.tlog-proof     the proof that this entry is in the log (c2sp.org/tlog-proof)
checkpoint              the head of the log, signed by it and cosigned by its witnesses
policy                  the keys of the log and its witnesses, as the log publishes them
manifest.json           how many entries there are, to see that none is missing

To verify, offline, with nothing but this file and a policy that you trust:

    pip install witnessed-ledger-client
    ledger verify THIS-FILE.zip --policy YOUR-POLICY

Get the policy from the operator of the log, or from a witness, by a way that you trust. Anyone
could have written the policy in this file, so it is for reading alone.

Each proof is a file of its own and can be checked with any tool for tlog-proof:
SHA-256(0x00 || leaf bytes) is the hash of the leaf.

The proofs show that each entry was in the log before the head was signed, and that not a byte of it
has changed since. Nothing shows that no other entry matches the query.
"""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents that a complete file has."""

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


def write_evidence(
    events: Iterable[EvidenceEvent],
    *,
    query: str,
    origin: str,
    tree_size: int,
    checkpoint: str,
    policy: str,
) -> Iterator[bytes]:
    """Write the .zip in pieces. Precondition: at most EVENTS_MAX events, each index once."""
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
            _add(archive, f"{stem}{LEAF_ENDING}", event.leaf)
            _add(archive, f"{stem}{PROOF_ENDING}", event.proof.encode())
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
    """The name of an event's two files without its ending. Names sort by index."""
    return f"events/{index:012d}"


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


class _Sink:
    """The unseekable file that zipfile writes to: it holds bytes until `take` removes them."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.waiting_bytes = 0

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        self.waiting_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is no file below."""

    def close(self) -> None:
        """Do nothing: there is no file below."""

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self.waiting_bytes = 0
        return data
