"""The copy of one log: its pending checkpoint, its entries, and the checkpoint cosigned last.

Three things change it, each a transaction that is durable before anybody is told:

1. `set_pending` compares a checkpoint of the log with the pending one, and takes its place.
2. `keep` compares entries with a checkpoint that is or was pending, and appends those that are new.
   All pending checkpoints are of one tree, so uploads that run at once add entries of one tree.
3. `cosign` signs a checkpoint whose entries are all there, once the tree of what is kept has its
   root.

A kill between any two of them loses nothing that was answered: the client goes on from the next
entry. The methods that write run on threads, one at a time for each log.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Final

import structlog

from ledger.store import keyspace
from ledger.store.entry_writer import EntryWriter
from ledger.store.log import DamagedTreeError, LogStore
from ledger.store.pages import check_pages
from ledger.store.transaction import Transaction
from ledger.witness.clock_guard import ClockGuard
from ledger.witness.generation import Generation, check_generation
from ledger.witness.known_log import decode_lines
from ledger.witness.service import log_refusal
from ledger_core.tlog import witness as protocol
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner, CosignatureVerifier, parse_verifier
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.growing_tiles import GrowingTiles
from ledger_core.tlog.hashing import leaf_hashes
from ledger_core.tlog.mirror import (
    Conflict,
    MirroredState,
    Package,
    check_package,
    origin_hash,
)
from ledger_core.tlog.note import Verifier, verify_note
from ledger_core.tlog.tile import TileCoord
from ledger_core.tlog.tree import Node
from ledger_core.tlog.witness import Refused

MARKER_FILE: Final = "last"
_SIGNERS: Final = (keyspace.META_LOG_KEYS, keyspace.META_KEYS)

_log = structlog.get_logger("ledger.tlog_mirror")


class LogCopy:
    """The copy of one log, for the process that changes it."""

    def __init__(
        self,
        writer: EntryWriter,
        signers: Sequence[CosignatureSigner],
        *,
        now: Callable[[], int],
    ) -> None:
        """`now`: whole seconds since 1970. Raises: MalformedError, VerificationError."""
        self.store: Final = writer.store
        self.origin: Final = writer.store.origin()
        self._writer: Final = writer
        self._signers: Final = tuple(signers)
        self._now: Final = now
        self._clock: Final = ClockGuard(now())
        self._lock: Final = threading.Lock()
        self._check_owner()
        if problems := check_checkpoints(self.store):
            raise MalformedError(problems[0])
        environment = self.store.environment
        marker = environment.path / MARKER_FILE
        self._generation: Final = Generation(marker, environment.last_transaction, signer="mirror")

    @classmethod
    def open(
        cls,
        folder: Path,
        signers: Sequence[CosignatureSigner],
        *,
        now: Callable[[], int],
        map_bytes: int,
    ) -> "LogCopy":
        """Open the copy in a folder for writing. Raises: as `LogWriter.open`, MalformedError."""
        writer = EntryWriter.open(folder, map_bytes=map_bytes)
        try:
            return cls(writer, signers, now=now)
        except BaseException:
            writer.close()
            raise

    def close(self) -> None:
        """Close the store after the running transaction."""
        with self._lock:
            self._generation.close()
            self._writer.close()

    def verifiers(self) -> tuple[Verifier | CosignatureVerifier, ...]:
        """The keys of the log, as they are stored now."""
        return _verifiers(self._row(keyspace.META_LOG_KEYS) or b"")

    def state(self) -> MirroredState:
        """The checkpoints and the next entry. Raises: MalformedError for damaged rows."""
        return read_state(self.store)

    def checkpoint(self) -> SignedCheckpoint | None:
        """The checkpoint that was cosigned last."""
        return self.state().mirrored

    def set_pending(self, authentic: protocol.Authentic) -> SignedCheckpoint | Refused:
        """Store a checkpoint that the log has signed as the pending one.

        Raises: as `EntryWriter.put_meta`, MalformedError.
        """
        with self._lock:
            known = self.state().pending
            outcome = protocol.compare(authentic, known=known)
            if isinstance(outcome, Refused):
                log_refusal(authentic, known, outcome)
            elif known is None or outcome.checkpoint != known.checkpoint:
                self._put(keyspace.META_PENDING, outcome)
            return outcome

    def keep(self, packages: Sequence[Package], checkpoint: SignedCheckpoint) -> int:
        """Verify packages and append their new entries in one transaction; return the next entry.

        Precondition: consecutive packages; the first begins no later than the next entry.
        Those before one that does not verify are kept.
        Raises: VerificationError, after that; as `EntryWriter.append`.
        """
        with self._lock:
            leaves: list[bytes] = []
            hashes: list[bytes] = []
            failure: VerificationError | None = None
            for package in packages:
                next_entry = self._writer.head.tree_size + len(leaves)
                if package.start > next_entry:
                    raise AssertionError("an upload begins no later than the next entry")
                # The first package of an upload may begin within a bundle, the others never do.
                nodes = [Node(0, index) for index in range(package.bundle_start, package.start)]
                try:
                    found = check_package(
                        package, self.store.node_hashes(nodes), checkpoint.checkpoint
                    )
                except VerificationError as error:
                    failure = error
                    break
                # What another upload has brought meanwhile is the same: both are of one tree.
                leaves += package.entries[next_entry - package.start :]
                hashes += found[next_entry - package.start :]
            if leaves:
                self._writer.append(leaves, hashes)
                self._generation.note(self.store.environment.last_transaction())
            if failure is not None:
                raise failure
            return self._writer.head.tree_size

    def cosign(self, checkpoint: SignedCheckpoint) -> SignedCheckpoint | Conflict | Refused:
        """Cosign a checkpoint all of whose entries are kept, and store it as the mirrored one.

        Raises: VerificationError when the entries have another root; as `EntryWriter.put_meta`.
        """
        with self._lock:
            state = self.state()
            size = checkpoint.head.tree_size
            if state.pending is None or size > state.next_entry:
                raise AssertionError("entries are kept under a pending checkpoint, and then signed")
            if size < state.mirrored_size:
                return Conflict(state.pending, state.next_entry)
            if self.store.root_at(size) != checkpoint.head.root_hash:
                raise VerificationError(f"what is kept has another root at size {size}")
            outcome = self._cosigned(checkpoint, state.mirrored)
            if isinstance(outcome, SignedCheckpoint) and outcome != state.mirrored:
                self._put(keyspace.META_MIRRORED, outcome)
                _log.info("log_mirrored", origin=self.origin, tree_size=size)
            return outcome

    def _cosigned(
        self, checkpoint: SignedCheckpoint, mirrored: SignedCheckpoint | None
    ) -> SignedCheckpoint | Refused:
        time_unix_s = self._now()
        if refused := self._clock.check(time_unix_s):
            return refused
        if mirrored is not None:
            behind_s = protocol.cosigned_at(mirrored) - time_unix_s
            if behind_s > 0:
                reason = f"the clock is {behind_s} s behind the checkpoint cosigned last"
                return Refused(HTTPStatus.SERVICE_UNAVAILABLE, reason)
            if behind_s == 0 and mirrored.checkpoint == checkpoint.checkpoint:
                return mirrored
        signers = protocol.signers_of(checkpoint.checkpoint, self._signers)
        if not signers:
            reason = "no key of this mirror signs extension lines"
            return Refused(HTTPStatus.FORBIDDEN, reason)
        # A ticket's checkpoint may have been signed by a key that the log has no more.
        by_log = verify_note(checkpoint.as_note(), self.verifiers())
        signed = protocol.cosign(
            SignedCheckpoint(checkpoint.checkpoint, by_log), signers, time_unix_s=time_unix_s
        )
        self._clock.used(time_unix_s)
        return signed

    def _put(self, key: bytes, checkpoint: SignedCheckpoint) -> None:
        self._writer.put_meta({key: checkpoint.note.encode()})
        self._generation.note(self.store.environment.last_transaction())

    def _row(self, key: bytes) -> bytes | None:
        return self.store.environment.get(keyspace.META, key)

    def _check_owner(self) -> None:
        """Refuse the store of another mirror, which would be a second history of its log."""
        own = tuple(str(signer.verifier) for signer in self._signers)
        if decode_lines(self._row(keyspace.META_KEYS) or b"") != own:
            raise MalformedError(f"{self.store.path} does not belong to the keys of this mirror")
        if self.store.path.name != origin_hash(self.origin):
            raise MalformedError(f"{self.store.path} holds the log {self.origin!a}")


def read_state(store: LogStore) -> MirroredState:
    """The state of a copy, in one transaction. Raises: MalformedError for damaged rows."""
    with store.environment.read() as transaction:
        pending = transaction.get(keyspace.META, keyspace.META_PENDING)
        mirrored = transaction.get(keyspace.META, keyspace.META_MIRRORED)
        tree = transaction.require(keyspace.META, keyspace.META_TREE)
    return MirroredState(
        None if pending is None else parse_signed_checkpoint(pending),
        None if mirrored is None else parse_signed_checkpoint(mirrored),
        keyspace.decode_tree(tree)[0],
    )


def check_checkpoints(store: LogStore) -> list[str]:
    """Verify the checkpoints of a copy by its keys and its tree; return the faults."""
    state, problems = read_state(store), []
    lines = [store.environment.get(keyspace.META, key) for key in _SIGNERS]
    log_keys, own_keys = (_verifiers(line or b"") for line in lines)
    for what, checkpoint, signers in (
        ("pending", state.pending, (log_keys,)),
        ("mirrored", state.mirrored, (log_keys, own_keys)),
    ):
        try:
            if checkpoint is not None:
                _check_checkpoint(store, checkpoint, signers)
        except (VerificationError, DamagedTreeError) as error:
            problems.append(f"the {what} checkpoint in {store.path} does not hold: {error}")
    if state.next_entry < state.mirrored_size:
        problems.append(
            f"{store.path}: of {state.mirrored_size} entries only {state.next_entry} are there"
        )
    return problems


def _check_checkpoint(
    store: LogStore,
    checkpoint: SignedCheckpoint,
    signers: Sequence[Sequence[Verifier | CosignatureVerifier]],
) -> None:
    for keys in signers:
        verify_note(checkpoint.as_note(), keys)
    size = checkpoint.head.tree_size
    if size <= store.head().tree_size and store.root_at(size) != checkpoint.head.root_hash:
        raise VerificationError(f"what is kept has another root at size {size}")


def check_copy(folder: Path) -> list[str]:
    """Compute the tree of a copy from its entries, and verify its checkpoints; return the faults.

    Each stored tile is compared too, byte for byte.

    Cost: two hashes an entry. Raises: as `LogStore.open`.
    """
    with closing(LogStore.open(folder)) as store:
        problems = check_checkpoints(store)
        try:
            check_pages(store.environment)
        except MalformedError as error:
            problems.append(str(error))
        marker, last_transaction = folder / MARKER_FILE, store.environment.last_transaction
        try:
            check_generation(marker, last_transaction, is_strict=True, signer="mirror")
        except MalformedError as error:
            problems.append(str(error))
        with store.environment.read() as transaction:
            try:
                problems += _check_tree(store, transaction)
            except MalformedError as error:
                problems.append(f"{folder}: {error}")
    return problems


def _check_tree(store: LogStore, transaction: Transaction[bytes]) -> Iterator[str]:
    """Compute every tile and the root from the entries. Raises: MalformedError for a bad entry."""
    tree = transaction.require(keyspace.META, keyspace.META_TREE)
    size, root_hash = keyspace.decode_tree(tree)
    edge, tiles = GrowingTiles(), 0

    def check(coord: TileCoord, hashes: bytes) -> Iterator[str]:
        key = keyspace.tile_key(level=coord.level, index=coord.index)
        if transaction.get(keyspace.TILES, key) != hashes:
            yield f"{store.path}: tile {coord.level}/{coord.index} is damaged"

    for leaves in store.leaves_between(transaction, 0, size):
        for tile in edge.extend(leaf_hashes(leaves)):
            tiles += 1
            yield from check(tile.coord, tile.rows)
    for level in range(edge.levels):
        coord, hashes = edge.partial_tile(level)
        if hashes:
            tiles += 1
            yield from check(coord, hashes)
    if transaction.count(keyspace.TILES) != tiles:
        yield f"{store.path}: there are tiles that the tree does not have, or some are missing"
    if edge.root() != root_hash:
        yield f"{store.path}: the {size} entries have another root than their head"


@lru_cache(1_000)
def _verifiers(lines: bytes) -> tuple[Verifier | CosignatureVerifier, ...]:
    return tuple(map(parse_verifier, decode_lines(lines)))
