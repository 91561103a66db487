"""The work of reads of one event, or of one bundle of events.

An event is read from its bundle, which has up to 16 MiB. To read and to compress so much takes up
to half a second, for which no event loop of a front end has time.
"""

import gzip
import re
from contextlib import suppress
from typing import Final

import msgspec

from ledger.service.http.problems import ProblemError
from ledger.service.queries.job import OpenValues, QueryJob
from ledger.store.bundles import BUNDLE_BYTES_MAX
from ledger.store.stored_log import StoredLog
from ledger_core.event.canonical import Leaf, parse_leaf
from ledger_core.event.commitments import Opening
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.text import parse_size
from ledger_core.tlog.tile import TILE_WIDTH

GZIP_LEVEL: Final = 1
"""Level 6 takes a third longer, for a tenth fewer bytes."""


class LargeReadError(Exception):
    """An event is in a bundle with more bytes than may be read here.

    `is_elsewhere`: that is not on this disk, so it must be fetched, inflated and verified.
    """

    def __init__(self, *, is_elsewhere: bool) -> None:
        super().__init__("a bundle is too large to be read here")
        self.is_elsewhere: Final = is_elsewhere


_is_uuid = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}").fullmatch


class StoredEvent(msgspec.Struct, frozen=True):
    """An event of the log: its index, its leaf's bytes, and what is private of it.

    `private`: the openings of its commitments, except those that were erased.
    """

    index: int
    leaf: bytes
    private: tuple[Opening, ...] = ()


def find_event(
    job: QueryJob, ref: str, *, tenant: str | None, may_open: bool = False
) -> StoredEvent:
    """Work: the event at an index or with an id; `private` is filled if one `may_open` it.

    Raises: ProblemError, also for another tenant's: `wrong-tenant` at an index, which everybody
    knows to be taken, and `no-event` for an id, which nobody should learn to be taken. PrunedError
    for an entry that was removed: at an index for everybody, by its id for its tenant.
    """
    return find_stored(job.store, job.open_values if may_open else None, ref, tenant=tenant)


def find_stored(
    store: StoredLog,
    open_values: OpenValues | None,
    ref: str,
    *,
    tenant: str | None,
    bytes_max: int = BUNDLE_BYTES_MAX,
) -> StoredEvent:
    """As `find_event`, in a log.

    Raises: LargeReadError for a bundle above `bytes_max`, or one that is not on this disk.
    """
    index, leaf, parsed = _find(store, ref, tenant, bytes_max)
    private = () if open_values is None else tuple(open_values(parsed.event_json))
    return StoredEvent(index, leaf, private)


def read_bundle(job: QueryJob, *, index: int, width: int, is_gzip: bool) -> bytes:
    """Work: the first `width` entries of a bundle of the published tree, compressed if `is_gzip`.

    Raises: MalformedError for one that is missing; as `LogStore.bundle`.
    """
    bundle = read_stored_bundle(job.store, index=index, width=width)
    job.check()
    return compress(bundle) if is_gzip else bundle


def read_stored_bundle(store: StoredLog, *, index: int, width: int) -> bytes:
    """As `read_bundle`, in a log."""
    bundle = store.bundle(index=index, width=width)
    if bundle is None:
        raise MalformedError("a bundle of the published tree is not in the store")
    return bundle


def compress(bundle: bytes) -> bytes:
    """A bundle in gzip: the same bytes each time."""
    return gzip.compress(bundle, GZIP_LEVEL, mtime=0)


def _find(
    store: StoredLog, ref: str, tenant: str | None, bytes_max: int
) -> tuple[int, bytes, Leaf]:
    tree_size = store.head().tree_size
    if _is_uuid(ref):
        id_bytes = bytes.fromhex(ref.replace("-", ""))
        for index in store.indices_of(id_bytes, tenant):
            if index is None and tenant is not None:
                # As much work as for another tenant's event: the time tells nobody of it either.
                with suppress(MalformedError, UnavailableError, VerificationError):
                    _stored(store, int.from_bytes(id_bytes) % max(tree_size, 1), bytes_max)
            found = None if index is None else _stored(store, index, bytes_max)
            if found is not None and tenant in (None, found[2].event.tenant):
                return found
        raise ProblemError("no-event", "no event has this id")
    try:
        index = parse_size(ref)
    except MalformedError as error:
        raise ProblemError(
            "bad-parameter", f"neither an index nor a UUID: {error}", field="ref"
        ) from None
    found = _stored(store, index, bytes_max)
    if found is None:
        raise ProblemError(
            "no-event",
            f"no event has the index {index}, the tree has size {tree_size}",
            limit=tree_size,
            got=index,
        )
    if tenant not in (None, found[2].event.tenant):
        raise ProblemError("wrong-tenant", "the token is bound to one tenant, this is another's")
    return found


def _stored(store: StoredLog, index: int, bytes_max: int) -> tuple[int, bytes, Leaf] | None:
    if bytes_max < BUNDLE_BYTES_MAX:
        if index < store.local_start():
            raise LargeReadError(is_elsewhere=True)
        if store.bundle_bytes(index // TILE_WIDTH) > bytes_max:
            raise LargeReadError(is_elsewhere=False)
    leaf = store.leaf(index)
    return None if leaf is None else (index, leaf, parse_leaf(leaf))
