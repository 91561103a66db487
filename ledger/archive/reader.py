"""Reads an archive that isn't trusted: its head by a policy, its objects by that head."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from ledger.object_storage.object_store import Bucket
from ledger.object_storage.objects import CHECKPOINT, NOTE_BYTES_MAX, packed_bytes_max, unpack
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import leaf_hashes
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.tile import TileRef, decode_bundle, tile_width
from ledger_core.tlog.tiled_tree import TiledTree
from ledger_core.tlog.tree import Node, TreeHead, decompose, fold_right

REQUESTS_MAX: Final = 32


class ArchiveReader:
    """Reads one archive. Used within one event loop. All methods raise UnavailableError."""

    def __init__(self, bucket: Bucket, policy: Policy, *, requests_max: int = REQUESTS_MAX) -> None:
        """`requests_max`: requests that run at once, each with one object in memory."""
        self.bucket: Final = bucket
        self.policy: Final = policy
        self._requests: Final = asyncio.Semaphore(requests_max)

    async def head(self) -> VerifiedHead:
        """The head of the archive. Raises: VerificationError, MalformedError."""
        found = await self.bucket.get(CHECKPOINT, bytes_max=NOTE_BYTES_MAX)
        if found is None:
            raise VerificationError(
                f"{self.bucket.place.url} has no {CHECKPOINT}: nothing was archived there, or "
                "somebody deleted it"
            )
        return self.policy.check(found.data)

    async def read(self, ref: TileRef) -> bytes | None:
        """A tile or a bundle, unverified; None when there is none. Raises: MalformedError."""
        async with self._requests:
            found = await self.bucket.get(ref.path, bytes_max=packed_bytes_max(ref))
        return None if found is None else unpack(ref, found.data)

    async def fetch(self, ref: TileRef) -> bytes:
        """Read what must be there, as `read`. Raises: VerificationError if it is missing or bad."""
        try:
            data = await self.read(ref)
        except MalformedError as error:
            raise VerificationError(str(error)) from None
        if data is None:
            raise VerificationError(f"{self.bucket.place.url}/{ref.path} is missing")
        return data

    async def load(self, tree: TiledTree, bundles: Iterable[int]) -> None:
        """Read the tiles by which some bundles are verified. Raises: VerificationError."""
        nodes = tree.bundle_nodes(bundles)
        await self._load(tree, nodes)

    async def leaves(self, tree: TiledTree, index: int, *, tree_size: int) -> list[bytes]:
        """The verified entries of a bundle. Precondition: `load` was called for it.

        Raises: VerificationError that names it.
        """
        ref = TileRef(None, index, tile_width(level=0, index=index, tree_size=tree_size))
        data = await self.fetch(ref)
        try:
            leaves = decode_bundle(data)
        except MalformedError as error:
            raise VerificationError(f"{ref.path}: {error}") from None
        if len(leaves) != ref.width:
            raise VerificationError(f"{ref.path} has {len(leaves)} entries, want {ref.width}")
        tree.check_bundle(index, leaf_hashes(leaves))
        return leaves

    async def head_at(self, head: VerifiedHead, tree_size: int) -> TreeHead:
        """The head of the first entries of an archive. Raises: VerificationError."""
        tree = TiledTree(head)
        nodes = decompose(0, tree_size)
        await self._load(tree, nodes)
        return TreeHead(tree_size, fold_right([tree.hash(node) for node in nodes]))

    async def _load(self, tree: TiledTree, nodes: Sequence[Node]) -> None:
        refs = tree.plan(nodes)
        tiles = await asyncio.gather(*map(self.fetch, refs))
        try:
            tree.finish(nodes, dict(zip(refs, tiles, strict=True)))
        except MalformedError as error:
            raise VerificationError(str(error)) from None
