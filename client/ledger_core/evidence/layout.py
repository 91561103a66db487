"""The files of a bundle of evidence, second edition: one .zip.

    README.txt                   what this is and how to verify it
    index.html                   the same for a browser, with a table of the events; no script
    query.txt                    the query
    policy                       the policy that the log publishes: for reading, not for trust
    checkpoint                   the signed head of the tree that was searched, cosigned
    events/000000.jsonl          leaves, each exactly as logged, a line each, by ascending index
    events/000000.multi-proof    their indices, and the proof that the tree of `checkpoint` has them
    private/000000.jsonl         disclosed values of these events, a line each; only if there are
    heads.jsonl                  other signed heads of the log, by size, each with the proof that it
                                 and `checkpoint` are heads of one growing tree
    statement.leaf.json          the entry of the log that records this export
    statement.tlog-proof         the proof that it is in the log; missing if no head covered it yet
    manifest.json                the edition, and how many events and parts there are

The **statement** is an event of the log, `ledger.evidence.exported`. Its actor is the token that
asked, its target the case, its reason the reason given, and `context.evidence` says what was asked
and what was found:

    {"v": 2, "query": "actor:u_117 time:2026-11-01T00:00:00.000000Z..", "order": "oldest",
     "fields": "all", "tree_size": 812, "root_hash": "<base64>", "total": 3,
     "leaf_hashes_sha256": "<hex>", "files": {"README.txt": "<hex>", …}}

`leaf_hashes_sha256` is the SHA-256 of the leaf hashes of all events in their order, and `files` has
the SHA-256 of each file that people read. So the log itself has signed what the bundle says, and an
event or a sentence that is added, dropped or changed afterwards disagrees with it.

Each number has a limit, so that a file from a stranger costs no more than its size.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from ledger_core.event.model import whole_text
from ledger_core.event.repeated_names import RepeatedNameError, decode_unrepeated
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import SIZE_MAX
from ledger_core.tlog.tile import LEAF_BYTES_MAX

LANGUAGE: Final = 2
"""The version of the query language of today. Raise it when a query comes to mean something else.

1: until November 2026, without the member `language` in the statement. 2: words are found in ids,
user agents and changed values too; actions, types and paths compare without case.
"""

ACTION: Final = "ledger.evidence.exported"
SERVICE_NAME: Final = "ledger"
"""The principal of the service's own events; no token can have this name."""

README: Final = "README.txt"
INDEX: Final = "index.html"
QUERY: Final = "query.txt"
POLICY: Final = "policy"
CHECKPOINT: Final = "checkpoint"
HEADS: Final = "heads.jsonl"
STATEMENT: Final = "statement.leaf.json"
STATEMENT_PROOF: Final = "statement.tlog-proof"
MANIFEST: Final = "manifest.json"

STATED: Final = (README, INDEX, QUERY, POLICY)
"""The files whose hashes are in the statement."""

FIXED: Final = frozenset({*STATED, CHECKPOINT, HEADS, STATEMENT, MANIFEST})

PART_EVENTS: Final = 4096
PART_BYTES: Final = 1 << 20
PART_BYTES_MAX: Final = PART_BYTES + LEAF_BYTES_MAX + 1
"""A part is closed by the event with which it has PART_EVENTS, or PART_BYTES of lines."""

PARTS_MAX: Final = 10_000
"""40 million events, or 10 GB of leaves."""

PROOF_BYTES_MAX: Final = 8 << 20
PRIVATE_BYTES: Final = 8 << 20
"""A part is closed too by the event with which its private values have so many bytes."""
PRIVATE_BYTES_MAX: Final = 64 << 20
STATED_BYTES_MAX: Final = 16 << 20
HEAD_LINE_BYTES_MAX: Final = 1 << 17
HEADS_FREE: Final = 64
EVENTS_PER_HEAD: Final = 256
"""A bundle holds at most HEADS_FREE heads, and one more for each EVENTS_PER_HEAD events."""

Count = Annotated[int, msgspec.Meta(ge=0, le=SIZE_MAX)]
Sha256 = Annotated[str, whole_text("[0-9a-f]{64}")]
Base64Hash = Annotated[str, msgspec.Meta(min_length=44, max_length=44)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents that a complete bundle has.

    `statement_missing` says why `statement.tlog-proof` is missing; empty when it is there.
    """

    v: Literal[2] = 2
    events: Count
    parts: Annotated[int, msgspec.Meta(ge=0, le=PARTS_MAX)]
    disclosed: Count = 0
    statement_missing: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class Statement(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The question and the result, as the log records them in `context.evidence`.

    The entries below `minimum_index` were pruned before, so the question was not put to them.
    """

    v: Literal[2]
    query: str
    order: Literal["oldest"]
    fields: Literal["all"]
    tree_size: Count
    root_hash: Base64Hash
    total: Count
    leaf_hashes_sha256: Sha256
    files: dict[str, Sha256]
    disclose: tuple[str, ...] = ()
    disclosed: Count = 0
    language: Annotated[int, msgspec.Meta(ge=1)] = 1
    minimum_index: Count = 0


def to_object(statement: Statement) -> dict[str, Any]:
    """The statement as the JSON object that stands in the event."""
    stated: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(statement))
    return stated


class HeadLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signed head, and the consistency proof between it and `checkpoint`, whichever is larger."""

    checkpoint: str
    hashes: tuple[Base64Hash, ...]


class DisclosedLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The value that opens the commitment at a JSON Pointer of the event at `index`."""

    index: Count
    path: Annotated[str, msgspec.Meta(max_length=4096)]
    salt: str
    value: Any


def decode_disclosed(line: bytes) -> DisclosedLine:
    """A disclosed value. Raises: MsgspecError; MalformedError for a name that stands twice."""
    found = _decode_disclosed(line)
    try:
        decode_unrepeated(line)
    except RepeatedNameError as error:
        raise MalformedError(f"{error} stands twice in an object of a line") from None
    return found


_decode_disclosed: Final = msgspec.json.Decoder(DisclosedLine).decode


def part_stem(number: int) -> str:
    """The name of a part's files without folder and ending."""
    return f"{number:06d}"


def leaves_name(number: int) -> str:
    """The file of a part's leaves."""
    return f"events/{part_stem(number)}.jsonl"


def proof_name(number: int) -> str:
    """The file of a part's proof."""
    return f"events/{part_stem(number)}.multi-proof"


def private_name(number: int) -> str:
    """The file of a part's disclosed values."""
    return f"private/{part_stem(number)}.jsonl"
