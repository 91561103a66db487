"""Makes requests from the log's entries: packages, each with its proof."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from ledger.store.log import LogStore
from ledger_core.tlog.mirror import (
    Package,
    Upload,
    encode_package,
    encode_upload,
    package_ranges,
)
from ledger_core.tlog.prove import plan_subtree_consistency
from ledger_core.tlog.tile import TILE_WIDTH
from ledger_core.tlog.tree import TreeHead, decompose

BODY_BYTES_MAX: Final = 8 << 20
"""Proxies limit a body. One package alone may be larger: 256 entries of 64 kB."""


def make_body(store: LogStore, upload: Upload, head: TreeHead, *, packages_max: int) -> bytes:
    """The body of a request with the first packages of an upload.

    `head`: of the tree of size `upload.end`, which was signed.
    Raises: MalformedError for entries and tiles that are damaged. Cost: an inclusion proof for each
    256 entries.
    """
    parts = [encode_upload(upload)]
    size = len(parts[0])
    for package in islice(_packages(store, upload, head), packages_max):
        encoded = encode_package(package)
        if len(parts) > 1 and size + len(encoded) > BODY_BYTES_MAX:
            break
        parts.append(encoded)
        size += len(encoded)
    return b"".join(parts)


def _packages(store: LogStore, upload: Upload, head: TreeHead) -> Iterator[Package]:
    for start, end in package_ranges(upload.start, upload.end):
        with store.environment.read() as transaction:
            (leaves,) = store.leaves_between(transaction, start, end)
        first = start - start % TILE_WIDTH
        plan = plan_subtree_consistency(start=first, end=end, tree_size=head.tree_size)
        proof = store.prove(plan, decompose(first, end), head)
        yield Package(start, tuple(leaves), proof)
