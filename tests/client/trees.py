"""Small signed logs in memory: any head, any proof, and forks of them."""

from collections.abc import Sequence
from hashlib import sha256

from ledger_core.tlog.checkpoint import Checkpoint, format_checkpoint
from ledger_core.tlog.hashing import Hash, leaf_hash, node_hash
from ledger_core.tlog.multi_proof import MultiProof, format_multi_proof
from ledger_core.tlog.note import Note, Signer, format_note
from ledger_core.tlog.policy import Policy, format_policy, parse_policy
from ledger_core.tlog.proof import Proof, RangeProof
from ledger_core.tlog.prove import (
    Plan,
    finish,
    plan_consistency,
    plan_inclusion,
    plan_multi,
    plan_range,
)
from ledger_core.tlog.tree import Node, decompose, fold_right
from ledger_core.tlog.trust import ConsistencyProof

ORIGIN = "example.com/audit"


class SmallLog:
    """The leaves, and the key that signs their heads."""

    def __init__(self, leaves: list[bytes], *, key: str = "a key", origin: str = ORIGIN) -> None:
        self.leaves = leaves
        self.leaf_hashes = [leaf_hash(leaf) for leaf in leaves]
        self.signer = Signer.generate(origin, seed=sha256(key.encode()).digest())
        self._hashes: dict[Node, Hash] = {}

    @property
    def policy(self) -> Policy:
        return parse_policy(format_policy([self.signer.verifier]).encode())

    def note(self, size: int | None = None) -> str:
        """The signed head of the first `size` leaves."""
        size = len(self.leaves) if size is None else size
        root_hash = fold_right([self.hash(node) for node in decompose(0, size)])
        return self.sign(Checkpoint(self.signer.verifier.name, size, root_hash))

    def sign(self, checkpoint: Checkpoint) -> str:
        text = format_checkpoint(checkpoint)
        return format_note(Note(text, (self.signer.sign(text),)))

    def consistency(self, old_size: int, new_size: int) -> ConsistencyProof:
        hashes = self._finish(plan_consistency(old_size=old_size, new_size=new_size))
        return ConsistencyProof(old_size=old_size, new_size=new_size, hashes=hashes)

    def proof(self, index: int, size: int) -> Proof:
        hashes = self._finish(plan_inclusion(leaf_index=index, tree_size=size))
        return Proof(index, hashes, self.note(size))

    def range_proof(self, start: int, end: int, size: int) -> RangeProof:
        hashes = self._finish(plan_range(start=start, end=end, tree_size=size))
        return RangeProof(start, end, hashes, self.note(size))

    def multi_proof(self, indices: Sequence[int], size: int) -> str:
        hashes = self._finish(plan_multi(indices=indices, tree_size=size))
        return format_multi_proof(MultiProof(indices, hashes))

    def hash(self, node: Node) -> Hash:
        """The hash of a complete subtree; it is remembered."""
        if node.level == 0:
            return self.leaf_hashes[node.index]
        if node not in self._hashes:
            left = Node(node.level - 1, 2 * node.index)
            right = left._replace(index=left.index + 1)
            self._hashes[node] = node_hash(self.hash(left), self.hash(right))
        return self._hashes[node]

    def _finish(self, plan: Plan) -> tuple[Hash, ...]:
        return finish(plan, [self.hash(node) for node in plan.nodes])


def numbered(count: int) -> list[bytes]:
    return [f"leaf {number}".encode() for number in range(count)]
