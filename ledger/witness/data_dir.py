"""The folder of a witness: where its parts are, and how it is created.

    DIR/key      the witness's keys, one to a line, mode 0600
    DIR/heads/   LMDB: the logs that it knows and the head that it cosigned last for each
    DIR/cosigned the marker, which shows that an older copy of DIR/heads was put back

The two belong together for ever. With another DIR/heads, or an old copy of it, the keys would sign
a second history of a log, which a witness exists to prevent.
"""

from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from ledger.runtime.half_made import half_made
from ledger.runtime.keys import read_keys, write_keys
from ledger.store.environment import DATA_FILE
from ledger.witness.store import HeadStore, create_heads
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.keys import check_new_name
from ledger_core.tlog.text import from_wire

KEYS_MAX: Final = 2
"""One of each type."""


class WitnessPaths:
    """The places inside a witness's folder."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root
        self.key: Final = root / "key"
        self.heads: Final = root / "heads"


def create_witness(path: Path, signers: Sequence[CosignatureSigner]) -> WitnessPaths:
    """Create a witness that knows no log. Existing files are never overwritten.

    The keys are written last: a folder without them is incomplete and has signed nothing.
    Raises: FileExistsError when there is a witness already, or a half-made one, with what mends it;
    ValueError for an unfit name.
    """
    for signer in signers:
        check_new_name(signer.verifier.name)
    paths = WitnessPaths(path)
    for taken in (paths.key, paths.heads):
        if taken.exists():
            if not paths.key.exists() and _is_unused(paths.heads):
                parts = (paths.heads.name, paths.key.name)
                raise FileExistsError(half_made(path, "ledger witness init", parts))
            raise FileExistsError(f"{taken} exists already; a witness is made in a new folder")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_heads(paths.heads, vkeys=[str(signer.verifier) for signer in signers])
    write_keys(paths.key, [signer.key for signer in signers])
    return paths


def _is_unused(heads: Path) -> bool:
    """Whether a store of heads is not there yet, or knows no log."""
    if not (heads / DATA_FILE).exists():
        return True
    with suppress(UnavailableError, MalformedError), closing(HeadStore.open(heads)) as store:
        return store.count_logs() == 0
    return False


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
