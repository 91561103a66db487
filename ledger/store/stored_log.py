"""The interface by which queries and routes read a log, on this disk or elsewhere.

`LogStore` implements it for a log on this disk. A log whose entries are in a bucket
(`ledger.reader`) is read part by part: what isn't here yet must be fetched first. A thread waits
for that. The event loop may not wait, so there a read raises `NotFetchedError`, and `reading`
fetches what it names and reads again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Final, Protocol, TypeVar

from ledger.store.damage import DamagedBundleError as DamagedBundleError
from ledger.store.minimum_index import Pruning
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.prove import Plan
from ledger_core.tlog.tree import Node, TreeHead

T = TypeVar("T")

FETCHES_MAX: Final = 64
"""Times that one read may lack a part: a look-up of an id lacks some after another."""


MAY_WAIT: Final = ContextVar("ledger.may_wait", default=True)
"""Whether a read on a thread waits for what is not fetched yet; it raises NotFetchedError else."""


class StoredLog(Protocol):
    """A log that is read from any thread. Each method is documented at `LogStore`."""

    @property
    def pruning(self) -> Pruning | None:
        """What was removed of the log, if anything was."""
        ...

    @property
    def minimum_index(self) -> int:
        """The first entry that was not removed."""
        ...

    def local_start(self) -> int:
        """The first entry whose bundle is on this disk, and not in a bucket."""
        ...

    def origin(self) -> str: ...

    def head(self) -> TreeHead: ...

    def expect(self, bundles: Sequence[int]) -> None:
        """Bundles that are read next: those that are elsewhere are fetched at once."""
        ...

    def leaf(self, leaf_index: int) -> bytes | None: ...

    def indices_of(self, id_bytes: bytes, tenant: str | None) -> Iterable[int | None]: ...

    def index_for(self, id_bytes: bytes, tenant: str | None) -> int | None: ...

    def indices_between(self, *, low: bytes, last: bytes, most: int) -> list[int] | None: ...

    def node_hashes(self, nodes: Sequence[Node]) -> list[Hash]: ...

    def prove(self, plan: Plan, proven: Sequence[Node], head: TreeHead) -> tuple[Hash, ...]: ...

    def prove_consistency(self, old_size: int, head: TreeHead) -> tuple[Hash, ...]: ...

    def head_at(self, tree_size: int) -> TreeHead: ...

    def tile(self, *, level: int, index: int, width: int) -> bytes | None: ...

    def bundle_bytes(self, index: int) -> int:
        """The bytes of a full bundle on this disk, 0 when there is none."""
        ...

    def bundle(self, *, index: int, width: int) -> bytes | None: ...

    def published(self, tree_size: int | None = None) -> SignedCheckpoint | None: ...

    def kept_heads(self, *, start: int, most: int) -> list[SignedCheckpoint]: ...

    def damaged_bundles(self) -> Sequence[DamagedBundleError]: ...

    def damaged(self, bundle: int, reason: str) -> DamagedBundleError: ...

    def fill_ratio(self) -> float: ...


class FetchFailedError(UnavailableError):
    """An object of an archive can't be read from its bucket now. The message names the object."""


class DamagedObjectError(MalformedError):
    """An object of an archive is missing, or is not that of the log. The message names it."""


class NotFetchedError(Exception):
    """A part of the log is not on this machine yet."""

    def __init__(self, fetch: Callable[[], Awaitable[None]]) -> None:
        """`fetch` brings it. It raises FetchFailedError and DamagedObjectError."""
        super().__init__("a part of the log is not fetched yet")
        self.fetch: Final = fetch


async def reading(
    read: Callable[[], T],
    *,
    beside: Callable[[], AbstractAsyncContextManager[None]] | None = None,
) -> T:
    """The result of a read of a `StoredLog` on the event loop, which waits for no disk or bucket.

    `read` may run several times: on the loop, or with `beside` on a thread, in a block that this
    makes, which is not held while something is fetched. Raises: what it raises, and what fetching
    raises.
    """
    for _ in range(FETCHES_MAX):
        try:
            if beside is None:
                return read()
            async with beside():
                return await asyncio.to_thread(_read_without_waiting, read)
        except NotFetchedError as error:
            await error.fetch()
    raise UnavailableError("parts of the log were evicted before they were used: cache_bytes")


def _read_without_waiting(read: Callable[[], T]) -> T:
    MAY_WAIT.set(False)  # In the context of this call alone: `to_thread` copies it.
    return read()
