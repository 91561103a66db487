"""The errors of a damaged log: of its entries, and of its tree."""

from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.tile import TILE_WIDTH


class DamagedBundleError(MalformedError):
    """Entries that can't be read: the rest of the log can."""

    def __init__(self, bundle: int, reason: str) -> None:
        first = bundle * TILE_WIDTH
        super().__init__(
            f"the entries {first} to {first + TILE_WIDTH - 1} can't be read: bundle {bundle} is "
            f"damaged ({reason})"
        )
        self.bundle = bundle


class DamagedTreeError(MalformedError):
    """Stored hashes that contradict each other or the head; the entries may be whole."""
