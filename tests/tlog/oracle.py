"""RFC 6962 §2.1 written down as it stands there: recursive, slow, and the judge of the fast code.

It shares nothing with `ledger_core.tlog`. `Oracle` remembers the hash of each range of its leaves,
and the nodes outside of each, which changes no answer and lets a test ask for all of them.
"""

from collections.abc import Sequence
from functools import cache
from hashlib import sha256

SIZE_MAX = 130
"""Past 128, so that each shape of a tree with up to eight levels is met."""


def _split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


class Oracle:
    """The RFC's tree over these leaves, and over the first n of them for any n."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.leaves = tuple(leaves)
        self.mth = cache(self._mth)
        self._before = cache(self._nodes_before)
        self._from = cache(self._nodes_from)

    def _mth(self, start: int, end: int) -> bytes:
        """MTH(D[start:end]). §2.1."""
        n = end - start
        if n == 0:
            return sha256().digest()
        if n == 1:
            return sha256(b"\x00" + self.leaves[start]).digest()
        k = _split(n)
        return sha256(b"\x01" + self.mth(start, start + k) + self.mth(start + k, end)).digest()

    def leaf_hashes(self, start: int, end: int) -> list[bytes]:
        """MTH({d(i)}) for each i."""
        return [self.mth(index, index + 1) for index in range(start, end)]

    def root(self, n: int) -> bytes:
        """MTH(D[n])."""
        return self.mth(0, n)

    def inclusion(self, m: int, n: int) -> list[bytes]:
        """PATH(m, D[n]). §2.1.1."""
        return self._path(m, 0, n)

    def _path(self, m: int, start: int, end: int) -> list[bytes]:
        n = end - start
        if n == 1:
            return []
        k = _split(n)
        if m < k:
            return [*self._path(m, start, start + k), self.mth(start + k, end)]
        return [*self._path(m - k, start + k, end), self.mth(start, start + k)]

    def consistency(self, m: int, n: int) -> list[bytes]:
        """PROOF(m, D[n]), 0 < m < n. §2.1.2."""
        return self._subproof(m, 0, n, is_whole=True)

    def _subproof(self, m: int, start: int, end: int, *, is_whole: bool) -> list[bytes]:
        n = end - start
        if m == n:
            return [] if is_whole else [self.mth(start, end)]
        k = _split(n)
        if m <= k:
            left = self._subproof(m, start, start + k, is_whole=is_whole)
            return [*left, self.mth(start + k, end)]
        right = self._subproof(m - k, start + k, end, is_whole=False)
        return [*right, self.mth(start, start + k)]

    def subtree_consistency(self, start: int, end: int, n: int) -> list[bytes]:
        """SUBTREE_PROOF(start, end, D[n]). draft-ietf-plants-merkle-tree-certs-03 §4.4.1."""
        return self._subtree_subproof(start, end, 0, n, is_whole=True)

    def _subtree_subproof(
        self, start: int, end: int, low: int, high: int, *, is_whole: bool
    ) -> list[bytes]:
        """For the tree of the leaves [low, high); `start` and `end` count from leaf 0."""
        if (start, end) == (low, high):
            return [] if is_whole else [self.mth(low, high)]
        k = low + _split(high - low)
        if end <= k:
            proof = self._subtree_subproof(start, end, low, k, is_whole=is_whole)
            return [*proof, self.mth(k, high)]
        if k <= start:
            proof = self._subtree_subproof(start, end, k, high, is_whole=is_whole)
        else:
            proof = self._subtree_subproof(k, end, k, high, is_whole=False)
        return [*proof, self.mth(low, k)]

    def range(self, start: int, end: int, n: int) -> list[bytes]:
        """Each maximal subtree of the tree of n that has no leaf of [start, end), left to right.

        Such a subtree ends before the range begins, or begins where it has ended.
        """
        return [*self._before(start, 0, n), *self._from(end, 0, n)]

    def _nodes_before(self, start: int, low: int, high: int) -> tuple[bytes, ...]:
        """The maximal subtrees of [low, high) without a leaf from `start` on."""
        if start <= low:
            return ()
        if high <= start:
            return (self.mth(low, high),)
        middle = low + _split(high - low)
        return self._before(start, low, middle) + self._before(start, middle, high)

    def _nodes_from(self, end: int, low: int, high: int) -> tuple[bytes, ...]:
        """The maximal subtrees of [low, high) without a leaf below `end`."""
        if high <= end:
            return ()
        if end <= low:
            return (self.mth(low, high),)
        middle = low + _split(high - low)
        return self._from(end, low, middle) + self._from(end, middle, high)


@cache
def oracle(size: int = SIZE_MAX) -> Oracle:
    """The oracle over the leaves that most tests are about: b"leaf 0", b"leaf 1", …"""
    return Oracle([b"leaf %d" % index for index in range(size)])
