"""The client of mirrors that the log sends its entries to, as the publisher sees it.

Another process sends entries and asks for the cosignatures (`ledger.mirror_push`). The two share
files, so that neither waits for the other:

    DIR/mirrors/offered.json          a head that the log has signed, and its number
    DIR/mirrors/NAME/cosigned.json    the same head with the cosignatures of one mirror
    DIR/mirrors/NAME/lost.json        a head that one mirror shows, and the log signed and lacks

The number says which offer an answer belongs to: the same head is offered again when cosignatures
are to be renewed. No file is synced: what a crash takes away comes again.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import msgspec

from ledger.log.hold import write_marker
from ledger.log.witness_client import WitnessStatus
from ledger.runtime.records import read_record
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import cosigned_at_unix_s
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.note import Signature
from ledger_core.tlog.policy import PolicyWitness

MIRRORS_FILE: Final = "mirrors.toml"
MIRRORS_FOLDER: Final = "mirrors"
MIRRORS_MAX: Final = 16
LOST_FILE: Final = "lost.json"
POLL_S: Final = 0.02

_NANOSECONDS: Final = 1_000_000_000


class HeadRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of both files. `number` grows with each offer."""

    v: Literal[1] = 1
    number: int
    note: str

    def head(self) -> SignedCheckpoint:
        """The head. Raises: MalformedError."""
        return parse_signed_checkpoint(self.note)


def offered_path(directory: Path) -> Path:
    """The file with the head that is offered."""
    return directory / MIRRORS_FOLDER / "offered.json"


def cosigned_path(directory: Path, name: str) -> Path:
    """The file with the cosignatures of one mirror."""
    return directory / MIRRORS_FOLDER / name / "cosigned.json"


def lost_path(directory: Path, name: str) -> Path:
    """The file with a head that one mirror shows, and that the log has lost."""
    return directory / MIRRORS_FOLDER / name / LOST_FILE


def take_lost(directory: Path) -> list[tuple[str, str]]:
    """The heads that mirrors show and the log has lost, by mirror; their files are removed."""
    found = []
    for path in sorted((directory / MIRRORS_FOLDER).glob(f"*/{LOST_FILE}")):
        if (record := read_head(path)) is not None:
            found.append((path.parent.name, record.note))
        path.unlink(missing_ok=True)
    return found


def write_head(path: Path, record: HeadRecord) -> None:
    """Replace one of the files. Raises: OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_marker(path, msgspec.json.encode(record).decode() + "\n")


def read_head(path: Path) -> HeadRecord | None:
    """What is in one of the files; None when there is none, or a crash cut it short."""
    with suppress(MalformedError, OSError):
        return read_record(path, HeadRecord)
    return None


class MirrorPeer:
    """A witness of the policy without an address: its cosignatures come from a mirror.

    It has the interface of `WitnessPeer`. Used from one event loop.
    """

    interval_s = 0.0

    def __init__(
        self,
        witness: PolicyWitness,
        *,
        directory: Path,
        timeout_s: float,
    ) -> None:
        self._verifier: Final = witness.verifier
        self._directory: Final = directory
        self._timeout_s: Final = timeout_s
        self._is_busy = False
        self.status = WitnessStatus((witness.name,), MIRRORS_FILE)
        self.failures = 0

    @property
    def is_due(self) -> bool:
        """Whether it can be asked: it is not being asked."""
        return not self._is_busy

    def lacks(self, tree_size: int) -> bool:  # noqa: ARG002 - as `WitnessPeer`
        """False: it is asked for each head."""
        return False

    async def ask(self, signed: SignedCheckpoint) -> tuple[Signature, ...]:
        """Offer a head that has the log's signatures only, and wait for the mirror's.

        Raises: UnavailableError when it has not come in time; it is worth asking again, since the
        mirror may still be sent what is missing.
        """
        self._is_busy = True
        try:
            found = await self._ask(signed)
        except UnavailableError as error:
            self.failures += 1
            self.status = replace(self.status, error=str(error))
            raise
        finally:
            self._is_busy = False
        self.failures = 0
        self.status = replace(
            self.status,
            cosigned_size=signed.head.tree_size,
            cosigned_at_unix_s=cosigned_at_unix_s(found),
            error=None,
        )
        return (found,)

    async def _ask(self, signed: SignedCheckpoint) -> Signature:
        (name,) = self.status.names
        if not (self._directory / MIRRORS_FILE).exists():
            raise UnavailableError(f"the mirror {name}: there is no {MIRRORS_FILE} to send it by")
        number = self._offer(signed)
        deadline_s = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline_s:
            for signature in self._cosignatures(signed, number):
                with suppress(VerificationError):
                    self._verifier.check(signed.as_note().text, signature)
                    return signature
            await asyncio.sleep(POLL_S)
        raise UnavailableError(
            f"the mirror {name}: no cosignature of size {signed.head.tree_size} came in "
            f"{self._timeout_s:g} s; ledger status says how far the mirrors are"
        )

    def _offer(self, signed: SignedCheckpoint) -> int:
        """Offer a head, unless it was offered just now for another mirror; its number."""
        path = offered_path(self._directory)
        known = read_head(path)
        now = time.time_ns()
        if (
            known is not None
            and known.note == signed.note
            and 0 <= now - known.number < self._timeout_s * _NANOSECONDS
        ):
            return known.number
        # A clock that was set back must not make an older number of a newer offer.
        number = max(now, 0 if known is None else known.number + 1)
        try:
            write_head(path, HeadRecord(number=number, note=signed.note))
        except OSError as error:
            raise UnavailableError(f"{path}: {error.strerror}") from error
        return number

    def _cosignatures(self, signed: SignedCheckpoint, number: int) -> Iterator[Signature]:
        """The signatures by this key in the answers of all mirrors to this offer."""
        for path in sorted((self._directory / MIRRORS_FOLDER).glob("*/cosigned.json")):
            record = read_head(path)
            if record is None or record.number != number:
                continue
            with suppress(MalformedError):
                yield from self._by_key(record.head(), signed)

    def _by_key(self, head: SignedCheckpoint, signed: SignedCheckpoint) -> Sequence[Signature]:
        if head.checkpoint != signed.checkpoint:
            return ()
        key = (self._verifier.name, self._verifier.key_id)
        return [each for each in head.signatures if (each.name, each.key_id) == key]
