"""Fills a mirror that is far behind, from the tiles and bundles of a published tree.

Three things run at once: bundles are fetched, leaves that came are checked (on the event loop), and
those before them are stored (on the writer's thread). A commit has some bundles, and ends with the
root that the head's tiles have at that size, so what is on the disk is verified.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from ledger.mirror.fetching import LogReader
from ledger.mirror.replica import ReadLeaves, Replica
from ledger_client.responses import adding_evidence
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.tile import TILE_WIDTH, TileRef, tile_width
from ledger_core.tlog.tiled_tree import TiledTree, bundles_under_tile, evidence_name
from ledger_core.tlog.tree import TreeHead, decompose, fold_right

BUNDLES_MAX: Final = 16
"""Bundles that are asked for at once, and stored by one commit."""

Bundles = Sequence[tuple[bytes, list[bytes]]]
"""Bundles as they came, each with its leaves."""


class Pace:
    """How many bundles are asked for at once: as many as the link brings in time.

    Those that are asked for at once share the link, and each must be there in time. When one is
    not, half as many are asked for; each time that all came, one more.
    """

    def __init__(self) -> None:
        self.bundles = BUNDLES_MAX

    def shrink(self) -> None:
        """Note that some did not come."""
        self.bundles = max(1, self.bundles // 2)

    def grow(self) -> None:
        """Note that all came."""
        self.bundles = min(BUNDLES_MAX, self.bundles + 1)


async def catch_up(
    replica: Replica,
    reader: LogReader,
    head: VerifiedHead,
    *,
    pace: Pace,
    on_kept: Callable[[int], None],
) -> None:
    """Keep the entries under the next tile of level 1, from its bundles.

    `on_kept` is told the size of the copy after each commit.
    Raises: ForkError; VerificationError with the head, the tiles and the bundle.
    """
    size, held = head.checkpoint.tree_size, replica.held.tree_size
    tree = TiledTree(head)
    bundles = bundles_under_tile(held // TILE_WIDTH, leaves_end=size)
    ends = [held, *(min((index + 1) * TILE_WIDTH, size) for index in bundles)]
    nodes = dict.fromkeys(node for end in ends for node in decompose(0, end))
    tree.finish(nodes, await reader.fetch_tiles(tree.plan(nodes)))
    roots = {end: fold_right([tree.hash(node) for node in decompose(0, end)]) for end in ends}
    replica.check_start(head, roots[held])
    replica.remember(head)

    async def keep(read: ReadLeaves, group: Sequence[int], found: Bundles) -> None:
        published = head if read.end == size else None
        try:
            expected = TreeHead(read.end, roots[read.end])
            await replica.keep(read, expected=expected, published=published)
        except VerificationError as error:
            raise _explain(tree, group, found, error) from error
        on_kept(read.end)

    rest = bundles

    def next_group() -> Sequence[int]:
        nonlocal rest
        group, rest = rest[: pace.bundles], rest[pace.bundles :]
        return group

    group = next_group()
    fetching = asyncio.create_task(_fetch(reader, group, size, pace))
    keeping: asyncio.Task[None] | None = None
    read: ReadLeaves | None = None
    try:
        while group:
            with adding_evidence(tree.evidence):
                found = await fetching
            following = next_group()
            if following:
                fetching = asyncio.create_task(_fetch(reader, following, size, pace))
            leaves = [leaf for _, each in found for leaf in each]
            start = held if read is None else read.end
            try:
                read = replica.read(leaves[start - group[0] * TILE_WIDTH :], after=read)
            except VerificationError as error:
                raise _explain(tree, group, found, error) from error
            if keeping is not None:
                await keeping
            keeping = asyncio.create_task(keep(read, group, found))
            group = following
        if keeping is not None:
            await keeping
    finally:
        fetching.cancel()
        # What the writer has begun ends first: the store takes one call at a time.
        unfinished: list[Awaitable[object]] = [each for each in (fetching, keeping) if each]
        await asyncio.gather(*unfinished, return_exceptions=True)


async def _fetch(reader: LogReader, group: Sequence[int], size: int, pace: Pace) -> Bundles:
    refs = [
        TileRef(None, index, tile_width(level=0, index=index, tree_size=size)) for index in group
    ]
    try:
        found = await reader.fetch_bundles(refs)
    except UnavailableError:
        pace.shrink()
        raise
    pace.grow()
    return found


def _explain(
    tree: TiledTree, group: Sequence[int], found: Bundles, error: VerificationError
) -> VerificationError:
    """The error that names the first bundle that is not of the tree, with the evidence."""
    for index, (bundle, leaves) in zip(group, found, strict=True):
        name = evidence_name(TileRef(None, index, len(leaves)))
        try:
            tree.check_bundle(index, list(map(leaf_hash, leaves)))
        except VerificationError as wrong:
            return VerificationError(str(wrong), evidence={**wrong.evidence, name: bundle})
    bundles = {
        evidence_name(TileRef(None, index, len(leaves))): bundle
        for index, (bundle, leaves) in zip(group, found, strict=True)
    }
    return VerificationError(
        f"the log committed to what no honest log has: {error}",
        evidence={**tree.evidence(), **bundles},
    )
