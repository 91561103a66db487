"""Checkpoints: a log's statement of its tree head, as the text of a signed note.

    example.com/behind-the-sofa                       origin, which names the log for ever
    20852163                                          tree size
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=      root hash
                                                      extension lines, if any; not recommended

Source: c2sp.org/tlog-checkpoint.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import HASH_BYTES, SIZE_MAX, Hash
from ledger_core.tlog.note import Note, Signature, check_note_text, format_note, parse_note
from ledger_core.tlog.text import decode_text, format_base64, from_wire, parse_hash, parse_size
from ledger_core.tlog.tree import TreeHead

ORIGIN_BYTES_MAX = 255
"""The limit of an ML-DSA-44 cosignature. Source: c2sp.org/tlog-cosignature."""

LINES_MIN = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The values in a checkpoint. Only a verified signature makes them a log's statement."""

    origin: str
    tree_size: int
    root_hash: Hash
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises: ValueError for values that no checkpoint can have."""
        if not 0 <= self.tree_size <= SIZE_MAX:
            raise ValueError(f"a tree size is below 2^63 and not negative: {self.tree_size}")
        if len(self.root_hash) != HASH_BYTES:
            raise ValueError(f"a root hash has {HASH_BYTES} bytes, got {len(self.root_hash)}")
        # Checked together: a stranger may send tens of thousands of lines.
        lines = (self.origin, *self.extensions)
        text = "\n".join((*lines, ""))
        if not all(lines) or text.count("\n") != len(lines):
            raise ValueError("a line of a checkpoint is empty, or is two lines")
        check_note_text(text)
        size_bytes = len(self.origin.encode())
        if size_bytes > ORIGIN_BYTES_MAX:
            raise ValueError(f"an origin has at most {ORIGIN_BYTES_MAX} bytes, got {size_bytes}")

    @property
    def head(self) -> TreeHead:
        """The tree size and the root hash."""
        return TreeHead(self.tree_size, self.root_hash)


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint and the signatures of its note. Making one verifies none of them.

    `policy.VerifiedHead` is the type of a checkpoint whose signatures met a policy.
    """

    checkpoint: Checkpoint
    signatures: tuple[Signature, ...]
    note: str = field(init=False, repr=False, compare=False)
    """The signed note, as it is stored, sent and shown."""

    def __post_init__(self) -> None:
        """Raises: ValueError when no note can carry it."""
        object.__setattr__(self, "note", format_note(self.as_note()))

    @property
    def head(self) -> TreeHead:
        """The tree size and the root hash."""
        return self.checkpoint.head

    def as_note(self) -> Note:
        """The text of the checkpoint and its signatures."""
        return Note(format_checkpoint(self.checkpoint), self.signatures)


def parse_checkpoint(text: bytes | str) -> Checkpoint:
    """Parse the text of a note. `format_checkpoint` gives the same text back.

    The text is that of the note, without its signatures. Raises: MalformedError.
    """
    *lines, rest = decode_text(text).split("\n")
    if rest or len(lines) < LINES_MIN:
        raise MalformedError(
            f"a checkpoint has {LINES_MIN} lines at least, and ends with a newline"
        )
    origin, tree_size, root_hash, *extensions = lines
    with from_wire():
        return Checkpoint(origin, parse_size(tree_size), parse_hash(root_hash), tuple(extensions))


def parse_signed_checkpoint(note: bytes | str) -> SignedCheckpoint:
    """The checkpoint and the signatures of a note; `note` of the result is the same text.

    Nothing in it is verified. Raises: MalformedError.
    """
    return _parse_signed(decode_text(note))


# A proof is parsed, and then its checkpoint is checked: the same text twice.
@lru_cache(maxsize=16)
def _parse_signed(note: str) -> SignedCheckpoint:
    parsed = parse_note(note)
    return SignedCheckpoint(parse_checkpoint(parsed.text), parsed.signatures)


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """The text to sign."""
    lines = (
        checkpoint.origin,
        str(checkpoint.tree_size),
        format_base64(checkpoint.root_hash),
        *checkpoint.extensions,
    )
    return "".join(f"{line}\n" for line in lines)
