"""A log in memory that asks witnesses, rightly and wrongly."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from ledger_core.tlog.checkpoint import Checkpoint, format_checkpoint
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.note import Note, Signature, Signer, format_note, format_signature_line
from ledger_core.tlog.text import format_base64
from tests.tlog.oracle import Oracle

SIZE_MAX = 64
FORK_SIZE = 4

TREE = Oracle([b"leaf %d" % index for index in range(SIZE_MAX)])
FORK = Oracle([b"leaf %d" % min(index, FORK_SIZE) for index in range(SIZE_MAX)])
"""The same tree up to one leaf more than FORK_SIZE, and another from then on."""


@dataclass(frozen=True)
class Log:
    """A log of an origin; its tree has as many leaves as it is asked for."""

    origin: str
    tree: Oracle = TREE

    @cached_property
    def signer(self) -> Signer:
        """Its key, the same for the same origin."""
        return Signer.generate(self.origin, seed=sha256(self.origin.encode()).digest())

    @cached_property
    def stranger(self) -> Signer:
        """Another key under the same name, which nobody trusts."""
        return Signer.generate(self.origin, seed=sha256(b"x" + self.origin.encode()).digest())

    @property
    def vkey(self) -> str:
        """The key by which a witness knows this log."""
        return str(self.signer.verifier)

    @property
    def origin_hash(self) -> bytes:
        """The hash by which a monitor asks a witness for this log's head."""
        return sha256(self.origin.encode()).digest()

    def checkpoint(self, tree_size: int) -> Checkpoint:
        """The checkpoint of a size."""
        return Checkpoint(self.origin, tree_size, self.tree.root(tree_size))

    def text(
        self, tree_size: int, *, root: Hash | None = None, extensions: Sequence[str] = ()
    ) -> str:
        """The text of a checkpoint, right unless it is told otherwise."""
        root_hash = self.tree.root(tree_size) if root is None else root
        return format_checkpoint(Checkpoint(self.origin, tree_size, root_hash, tuple(extensions)))

    def note(self, tree_size: int) -> str:
        """The signed checkpoint of a size."""
        return self.signed(self.text(tree_size))

    def signed(self, text: str, *signers: Signer) -> str:
        """A text, signed by the log or by others."""
        return format_note(Note(text, tuple(by.sign(text) for by in signers or (self.signer,))))

    def bad_line(self) -> str:
        """A signature line of the log's key that does not verify."""
        key = self.signer.verifier
        return format_signature_line(Signature(key.name, key.key_id, bytes(64))) + "\n"

    def proof(self, old_size: int, tree_size: int) -> list[Hash]:
        """The consistency proof between two sizes."""
        return self.tree.consistency(old_size, tree_size) if 0 < old_size < tree_size else []

    def ask(
        self,
        old_size: int | str,
        note: str,
        proof: Sequence[Hash | str] = (),
    ) -> bytes:
        """A request of these parts, be they right or wrong."""
        lines = [each if isinstance(each, str) else format_base64(each) for each in proof]
        return "\n".join([f"old {old_size}", *lines, "", note]).encode()

    def grow(self, old_size: int, tree_size: int) -> bytes:
        """A right request to go from one size to another."""
        return self.ask(old_size, self.note(tree_size), self.proof(old_size, tree_size))
