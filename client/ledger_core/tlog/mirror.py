r"""The mirror protocol: a log, or a client of it, sends entries to a mirror, which then cosigns.

First the mirror takes a checkpoint as a witness does (`witness.parse_add_checkpoint`), without a
cosignature: that is the *pending* checkpoint. Then it takes the entries below it. The body of
`add-entries` is binary, integers are big-endian:

    u16 ‖ origin                      the log
    u64 upload_start, u64 upload_end  the entries; the end is the size of a pending checkpoint
    u16 ‖ ticket                      opaque bytes that the mirror gave, or none
    packages                          any number of them, from the first one on:
        u16 ‖ entry, …                the entries of one bundle: up to the next multiple of 256
        u8 ‖ 32 bytes, …              a subtree consistency proof: at most 63 hashes

The entries [700, 1100) make the packages [700, 768), [768, 1024) and [1024, 1100). The proof of
each is about the subtree from its bundle's first entry, here 512, 768 and 1024, and the tree of
size `upload_end`. So each package is verified by itself, and a body that is cut short loses no more
than the package that was on its way. What the mirror answers:

    400   the bytes are not this format, and no package of them was kept
    404   no log of this origin is mirrored here
    422   the mirror has no pending checkpoint, or a package is not of the tree
    409   `upload_end` or `upload_start` is not one that this mirror can take now
    202   packages were kept, and others are to come
    200   all entries are kept, and the mirror's cosignatures of the checkpoint, lines of a note

A 409 and a 202 say where to go on: a size that may be the next `upload_end`, the first entry that
is missing, and a ticket for that size in base64:

    20852163
    20851712
    AAECAw==

Source: c2sp.org/tlog-mirror.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import (
    EMPTY_ROOT_HASH,
    HASH_BYTES,
    SIZE_MAX,
    Hash,
    check_hashes,
    leaf_hashes,
)
from ledger_core.tlog.text import (
    decode_text,
    format_base64,
    from_wire,
    parse_base64,
    parse_size,
)
from ledger_core.tlog.tile import TILE_WIDTH, encode_bundle
from ledger_core.tlog.tree import Frontier
from ledger_core.tlog.verify import check_subtree_consistency
from ledger_core.tlog.witness import PROOF_HASHES_MAX, Refused

MEDIA: Final = "application/octet-stream"
INFO_MEDIA: Final = "text/x.tlog.mirror-info"

TICKET_BYTES_MAX: Final = 0xFFFF
INFO_BYTES_MAX: Final = 1 << 17
"""Two numbers and the longest ticket in base64."""

REQUEST_PACKAGES_MAX: Final = 32
"""Packages that a client puts into one request: proxies limit the size of a body."""

EXCESS_ENTRIES_MAX: Final = REQUEST_PACKAGES_MAX * TILE_WIDTH
"""Entries that a request may send again at its start; more of them waste the mirror's time."""

_INFO_LINES: Final = 3
_U16_BYTES: Final = 2
_U64_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Upload:
    """The beginning of a body: the log, and its entries [start, end)."""

    origin: str
    start: int
    end: int
    ticket: bytes = b""

    def __post_init__(self) -> None:
        """Raises: ValueError for values that no request can have."""
        Checkpoint(self.origin, 0, EMPTY_ROOT_HASH)
        if not 0 <= self.start <= self.end <= SIZE_MAX:
            raise ValueError(f"[{self.start}, {self.end}) is not a range of entries")
        if len(self.ticket) > TICKET_BYTES_MAX:
            raise ValueError(f"a ticket has at most {TICKET_BYTES_MAX} bytes")


@dataclass(frozen=True, slots=True)
class Package:
    """The consecutive entries from `start` on, all of one bundle, and their proof."""

    start: int
    entries: tuple[bytes, ...]
    proof: tuple[Hash, ...]

    def __post_init__(self) -> None:
        """Raises: ValueError for values that no package can have."""
        if not 1 <= len(self.entries) <= TILE_WIDTH - self.start % TILE_WIDTH:
            raise ValueError(f"{len(self.entries)} entries from {self.start} on are no package")
        check_hashes(self.proof, PROOF_HASHES_MAX)

    @property
    def end(self) -> int:
        """The index behind the last entry."""
        return self.start + len(self.entries)

    @property
    def bundle_start(self) -> int:
        """The index of the first entry of the bundle, which may be before `start`."""
        return self.start - self.start % TILE_WIDTH


class MirrorInfo(NamedTuple):
    """The body of a 409 or a 202: what to send next. The mirror claims it, nothing proves it."""

    tree_size: int
    next_entry: int
    ticket: bytes = b""


@dataclass(frozen=True, slots=True)
class MirroredState:
    """The checkpoints of one log at a mirror, and the index of the first entry that it lacks."""

    pending: SignedCheckpoint | None
    mirrored: SignedCheckpoint | None
    next_entry: int

    @property
    def mirrored_size(self) -> int:
        """The size of the checkpoint that was cosigned last, 0 for none."""
        return 0 if self.mirrored is None else self.mirrored.head.tree_size


@dataclass(frozen=True, slots=True)
class Conflict:
    """A refusal of an upload's ends; `checkpoint` is the one to upload to instead."""

    checkpoint: SignedCheckpoint
    next_entry: int


def origin_hash(origin: str) -> str:
    """The SHA-256 of an origin in hex: its folder below the monitoring prefix of a mirror."""
    return sha256(origin.encode()).hexdigest()


def package_ranges(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The packages of the entries [start, end): the canonical sequence."""
    while start < end:
        stop = min(end, start - start % TILE_WIDTH + TILE_WIDTH)
        yield start, stop
        start = stop


def encode_upload(upload: Upload) -> bytes:
    """The beginning of a body."""
    origin = upload.origin.encode()
    return b"".join(
        (
            len(origin).to_bytes(_U16_BYTES) + origin,
            upload.start.to_bytes(_U64_BYTES),
            upload.end.to_bytes(_U64_BYTES),
            len(upload.ticket).to_bytes(_U16_BYTES) + upload.ticket,
        )
    )


def encode_package(package: Package) -> bytes:
    """The bytes of a package. Raises: ValueError for an entry of more than 65,535 bytes."""
    return b"".join((encode_bundle(package.entries), bytes([len(package.proof)]), *package.proof))


class UploadDecoder:
    """Decodes a body as it arrives. It keeps the bytes of one unfinished package at most.

    `upload` is there once the beginning has arrived. `decoded_bytes` is the length of the beginning
    and of the whole packages; what follows is partial.
    """

    def __init__(self) -> None:
        self.upload: Upload | None = None
        self.decoded_bytes = 0
        self._bytes: Final = bytearray()
        self._position = 0
        self._taken_bytes = 0
        self._steps: Final = self._decode()

    def feed(self, data: bytes) -> Iterator[Package]:
        """Each package that is whole with these bytes. Take all of them before the next `feed`.

        Raises: MalformedError, after the packages before it, for bytes that are not the format and
        for bytes behind the last package. Then feed no more.
        """
        del self._bytes[: self._position]
        self._position = 0
        self._bytes.extend(data)
        for package in self._steps:
            if package is None:
                return
            yield package
        if len(self._bytes) > self._position:
            raise MalformedError("bytes follow the last package of the upload")

    def _decode(self) -> Generator[Package | None]:
        """Yields each package, and None where more bytes are needed."""
        origin = yield from self._take_counted()
        start = int.from_bytes((yield from self._take(_U64_BYTES)))
        end = int.from_bytes((yield from self._take(_U64_BYTES)))
        ticket = yield from self._take_counted()
        with from_wire():
            self.upload = Upload(decode_text(origin), start, end, ticket)
        self.decoded_bytes = self._taken_bytes
        for first, stop in package_ranges(start, end):
            entries: list[bytes] = []
            while len(entries) < stop - first:
                entry = yield from self._take_counted()
                entries.append(entry)
            count = (yield from self._take(1))[0]
            if count > PROOF_HASHES_MAX:
                raise MalformedError(f"a proof has at most {PROOF_HASHES_MAX} hashes, got {count}")
            hashes = yield from self._take(count * HASH_BYTES)
            proof = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
            self.decoded_bytes = self._taken_bytes
            yield Package(first, tuple(entries), tuple(proof))

    def _take_counted(self) -> Generator[None, None, bytes]:
        """Bytes behind their length."""
        count = int.from_bytes((yield from self._take(_U16_BYTES)))
        return (yield from self._take(count))

    def _take(self, count: int) -> Generator[None, None, bytes]:
        end = self._position + count
        while len(self._bytes) < end:
            yield None
            end = self._position + count  # Bytes before the position were dropped.
        taken = bytes(self._bytes[self._position : end])
        self._position = end
        self._taken_bytes += count
        return taken


def check_package(package: Package, before: Sequence[Hash], checkpoint: Checkpoint) -> list[Hash]:
    """Check that the entries of a package are in the tree of a checkpoint; their leaf hashes.

    `before`: the hashes of the entries that are kept already, from the bundle's first entry to the
    package. Cost: two hashes an entry. Raises: VerificationError.
    """
    hashes = leaf_hashes(package.entries)
    subtree = Frontier()
    subtree.extend([*before, *hashes])
    check_subtree_consistency(
        start=package.bundle_start,
        end=package.end,
        tree_size=checkpoint.tree_size,
        proof=package.proof,
        subtree_root=subtree.root(),
        root_hash=checkpoint.root_hash,
    )
    return hashes


def resolve_upload(
    upload: Upload, state: MirroredState | None, *, ticketed: SignedCheckpoint | None
) -> SignedCheckpoint | Conflict | Refused:
    """The checkpoint that an upload is to be verified by, or why it can't be taken now.

    `state`: of the log that the upload names, None for an unknown one. `ticketed`: an earlier
    pending checkpoint, from a ticket that the mirror has recognised as its own.
    """
    if state is None:
        return Refused(404, "no log of this origin is mirrored here")
    pending, next_entry = state.pending, state.next_entry
    if pending is None:
        return Refused(422, "this mirror has no checkpoint of the log yet: send it first")
    found = next(
        (
            each
            for each in (pending, state.mirrored, ticketed)
            if each is not None and each.head.tree_size == upload.end
        ),
        None,
    )
    if found is None or upload.end < state.mirrored_size:
        return Conflict(pending, next_entry)
    excess = min(upload.end, next_entry) - upload.start
    if upload.start > next_entry or excess > EXCESS_ENTRIES_MAX:
        # The client may go on with the proofs that it has, unless nothing is left to be sent.
        return Conflict(found if next_entry <= upload.end else pending, next_entry)
    return found


def format_mirror_info(info: MirrorInfo) -> str:
    """The body of a 409 or a 202."""
    return f"{info.tree_size}\n{info.next_entry}\n{format_base64(info.ticket)}\n"


def parse_mirror_info(body: bytes) -> MirrorInfo:
    """Parse the body of a 409 or a 202. Raises: MalformedError."""
    if len(body) > INFO_BYTES_MAX:
        raise MalformedError(f"an answer has at most {INFO_BYTES_MAX} bytes, got {len(body)}")
    lines = decode_text(body).split("\n")
    if len(lines) != _INFO_LINES + 1 or lines[-1]:
        raise MalformedError(f"want {_INFO_LINES} lines, each with its newline")
    size, next_entry, ticket = lines[:_INFO_LINES]
    return MirrorInfo(parse_size(size), parse_size(next_entry), parse_base64(ticket))
