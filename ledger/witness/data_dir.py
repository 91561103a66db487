"""The folder of a witness: where its parts are, and how it is created.

    DIR/key      the witness's keys, one to a line, mode 0600
    DIR/heads/   LMDB: the logs that it knows and the head that it cosigned last for each

The two belong together for ever. With another DIR/heads, or an old copy of it, the keys would sign
a second history of a log, which a witness exists to prevent.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.runtime.keys import read_keys, write_keys
from ledger.witness.store import HeadStore, KnownLog, create_heads
from ledger_core.tlog.checkpoint import Checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner, parse_verifier
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.note import check_algorithm, known_keys
from ledger_core.tlog.policy import LOG_ALGORITHMS
from ledger_core.tlog.text import from_wire

KEYS_MAX = 2
"""One of each type."""


@dataclass(frozen=True, slots=True)
class WitnessPaths:
    """The places inside a witness's folder."""

    root: Path

    @property
    def key(self) -> Path:
        """The keys."""
        return self.root / "key"

    @property
    def heads(self) -> Path:
        """The environment of logs and heads."""
        return self.root / "heads"


def create_witness(path: Path, signers: Sequence[CosignatureSigner]) -> WitnessPaths:
    """Create a witness that knows no log. Existing files are never overwritten.

    The keys are written last: a folder without them is incomplete and has signed nothing.
    Raises: FileExistsError when there is a witness already.
    """
    paths = WitnessPaths(path)
    for taken in (paths.key, paths.heads):
        if taken.exists():
            raise FileExistsError(f"{taken} exists already; a witness is made in a new folder")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_heads(paths.heads, vkeys=[str(signer.verifier) for signer in signers])
    write_keys(paths.key, [signer.key for signer in signers])
    return paths


def read_signers(paths: WitnessPaths, store: HeadStore) -> tuple[CosignatureSigner, ...]:
    """Read the keys of a witness, which must be those of its store.

    Raises: UnavailableError when there are none or others can read them; MalformedError when they
    are not cosigners' keys, or are not those that the store belongs to.
    """
    keys = read_keys(paths.key, keys_max=KEYS_MAX)
    if tuple(str(key.verifier_key) for key in keys) != store.vkeys():
        raise MalformedError(
            f"{paths.heads} does not belong to the keys in {paths.key}: with the heads of another "
            "witness, it would sign a second history"
        )
    with from_wire():
        return tuple(map(CosignatureSigner, keys))


@contextmanager
def open_heads(paths: WitnessPaths, *, readonly: bool) -> Iterator[HeadStore]:
    """Open the logs and heads of a witness, which may be running. Raises: as `HeadStore.open`."""
    store = HeadStore.open(paths.heads, readonly=readonly)
    try:
        yield store
    finally:
        store.close()


def add_log(store: HeadStore, *, origin: str, vkeys: Sequence[str]) -> KnownLog:
    """Add a log, or keys to a known one; a running witness uses them from the next request on.

    Raises: ValueError for an origin that no checkpoint can have, for a key of another type or of
    this witness itself, and for too many.
    """
    Checkpoint(origin, 0, EMPTY_ROOT_HASH)
    own = {parse_verifier(vkey).public_key for vkey in store.vkeys()}
    known = store.log(origin)
    verifiers = [parse_verifier(vkey) for vkey in (*(known.vkeys if known else ()), *vkeys)]
    for verifier in verifiers:
        check_algorithm(verifier.key, *LOG_ALGORITHMS)
        if verifier.public_key in own:
            # Its own cosignatures would pass for signatures of the log.
            raise ValueError(f"{verifier.key!r} has a public key of this witness")
    known_keys(verifiers)
    return store.add_log(origin, vkeys)
