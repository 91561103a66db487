"""The whole log, verified again from nothing but the bytes that it serves."""

import time
from dataclasses import dataclass
from typing import Any

from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.checkpoint import parse_checkpoint
from ledger_core.tlog.hashing import HASH_BYTES, leaf_hash
from ledger_core.tlog.note import parse_note
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.tile import (
    TILE_WIDTH,
    TileRef,
    decode_bundle,
    tile_rows,
    tile_width,
)
from ledger_core.tlog.tree import Frontier
from tests.service.serving import Ledger, send

PUBLISH_WAIT_S = 120.0


@dataclass(frozen=True)
class CheckedLog:
    """The content of a log, every byte of it verified."""

    head: VerifiedHead
    leaves: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """The number of entries."""
        return len(self.leaves)


def check_log(url: str, token: str, policy: Policy) -> CheckedLog:
    """Verify the signature, every tile, every bundle and the root of a served log.

    Waits until what is durable is published. An id is there once in a tenant, and no entry was
    received before the one before it.
    """
    head = policy.check(_published_note(url))
    tree_size = head.checkpoint.tree_size
    hashes = _level(url, 0, tree_size)
    frontier = Frontier()
    for each in hashes:
        frontier.append(each)
    assert frontier.root() == head.checkpoint.root_hash
    _check_levels_above(url, hashes, tree_size)
    leaves = _leaves(url, token, tree_size)
    assert [leaf_hash(leaf) for leaf in leaves] == hashes
    parsed = [parse_leaf(leaf) for leaf in leaves]
    assert len({(leaf.event.tenant, leaf.event.id) for leaf in parsed}) == tree_size
    times = [leaf.received.time for leaf in parsed]
    assert times == sorted(times)
    return CheckedLog(head, tuple(leaves))


def check_ledger(ledger: Ledger) -> CheckedLog:
    """Verify the whole log of a served ledger, as `check_log` does."""
    return check_log(ledger.url, ledger.tokens["admin"], ledger.policy)


def _published_note(url: str) -> bytes:
    """The published head, once it covers what was durable when this was called."""
    durable: Any = send(url, "/v1/log", method="GET", body=None, headers={}).json()["tree_size"]
    deadline_s = time.monotonic() + PUBLISH_WAIT_S
    while True:
        note = _fetch(url, "/checkpoint")
        if parse_checkpoint(parse_note(note).text).tree_size >= durable:
            return note
        assert time.monotonic() < deadline_s, "the head is not published"
        time.sleep(0.01)


def _level(url: str, level: int, tree_size: int) -> list[bytes]:
    """All hashes of the tiles of a level."""
    hashes: list[bytes] = []
    index = 0
    while width := tile_width(level=level, index=index, tree_size=tree_size):
        tile = _fetch(url, f"/{TileRef(level, index, width).path}")
        assert len(tile) == width * HASH_BYTES
        hashes += (tile[start : start + HASH_BYTES] for start in range(0, len(tile), HASH_BYTES))
        index += 1
    return hashes


def _check_levels_above(url: str, hashes: list[bytes], tree_size: int) -> None:
    """Hold each level against the roots of the full tiles below it."""
    level = 0
    while len(hashes) >= TILE_WIDTH:
        roots = [
            tile_rows(b"".join(hashes[start : start + TILE_WIDTH]))[-HASH_BYTES:]
            for start in range(0, len(hashes) - TILE_WIDTH + 1, TILE_WIDTH)
        ]
        level += 1
        hashes = _level(url, level, tree_size)
        assert hashes == roots


def _leaves(url: str, token: str, tree_size: int) -> list[bytes]:
    leaves: list[bytes] = []
    for index in range(-(-tree_size // TILE_WIDTH)):
        width = tile_width(level=0, index=index, tree_size=tree_size)
        bundle = _fetch(url, f"/{TileRef(None, index, width).path}", token)
        leaves += decode_bundle(bundle)
    return leaves


def _fetch(url: str, target: str, token: str | None = None) -> bytes:
    """The body of an answer, asked again while the query process, say, is started again."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    deadline_s = time.monotonic() + PUBLISH_WAIT_S
    while True:
        answer = send(url, target, method="GET", body=None, headers=headers)
        if answer.status != 503 or time.monotonic() > deadline_s:
            assert answer.status == 200, (target, answer.status, answer.body)
            return answer.body
        time.sleep(0.05)
