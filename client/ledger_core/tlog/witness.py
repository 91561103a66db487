"""The witness protocol: a log asks for a cosignature, and a witness decides.

A log sends its new checkpoint, the size that it believes this witness cosigned last, and the proof
that the new tree begins with that old one:

    old 20852014                                      the old size
    PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=      a consistency proof: at most 63 hashes
    jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
                                                      an empty line, the first one
    example.com/behind-the-sofa                       a checkpoint, signed by the log
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5…

The answer is decided in this order, and the first that holds is given:

    400   the bytes are not this format
    404   no log of this origin is known
    403   no trusted key of the log signed the checkpoint, or a signature by one of them is bad
    400   the old size is larger than the checkpoint's
    409   the old size is not that of the head cosigned last; the body is that size, a line
    422   the new tree does not begin with the old one: by its root, or by the proof
    403   it has extension lines, and the witness has no key whose cosignatures cover them
    503   the time is earlier than that of the head cosigned last: no earlier one is ever signed
    200   one cosignature line for each key of the witness; for a checkpoint with extension lines,
          which ML-DSA-44 leaves out, no line of such a key

The decision has two halves. `authenticate` needs no state. `advance` compares with the head that
was cosigned last and cosigns; it must be one transaction with the update of that head, or a slower
request could put back a smaller one.

Source: c2sp.org/tlog-witness.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import (
    CosignatureSigner,
    CosignatureVerifier,
    cosigned_at_unix_s,
)
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, SIZE_MAX, Hash, check_hashes
from ledger_core.tlog.keys import MLDSA44_COSIGNATURE
from ledger_core.tlog.note import (
    NoteVerifier,
    Signature,
    format_signature_line,
    parse_signature_line,
    verify_note,
)
from ledger_core.tlog.text import decode_text, format_base64, from_wire, parse_hash, parse_size
from ledger_core.tlog.verify import check_consistency

PROOF_HASHES_MAX = 63

BODY_BYTES_MAX = 1 << 18
"""A checkpoint with 16 post-quantum signatures of 5,000 bytes takes half of it."""

ANSWER_BYTES_MAX = 1 << 16
"""A few cosignature lines. A client reads no more of an answer."""

SIZE_MEDIA = "text/x.tlog.size"

_OLD = "old "


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request of a log: cosign this checkpoint. Nothing in it is verified yet."""

    old_size: int
    proof: tuple[Hash, ...]
    signed: SignedCheckpoint

    def __post_init__(self) -> None:
        """Raises: ValueError for values that no request can have."""
        if not 0 <= self.old_size <= SIZE_MAX:
            raise ValueError(f"a tree size is below 2^63 and not negative: {self.old_size}")
        check_hashes(self.proof, PROOF_HASHES_MAX)


@dataclass(frozen=True, slots=True)
class Authentic:
    """A request whose checkpoint the log has signed; `signatures` are those that verified."""

    request: AddCheckpoint
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal: a status of HTTP, and the reason."""

    status: int
    reason: str
    known_size: int | None = None
    """With 409: the size of the head that was cosigned last."""


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Parse the body of a request. `format_add_checkpoint` gives the same bytes back.

    Raises: MalformedError.
    """
    (old, *hashes), note = split_request(body)
    if not old.startswith(_OLD):
        raise MalformedError(f"the first line of a request is `{_OLD}<size>`")
    with from_wire():
        return AddCheckpoint(
            parse_size(old.removeprefix(_OLD)),
            tuple(map(parse_hash, hashes[: PROOF_HASHES_MAX + 1])),  # One too many is refused.
            parse_signed_checkpoint(note),
        )


def split_request(body: bytes) -> tuple[list[str], str]:
    """Split a request into the lines above its first empty line, and the checkpoint below it.

    Raises: MalformedError.
    """
    if len(body) > BODY_BYTES_MAX:
        raise MalformedError(f"a request has at most {BODY_BYTES_MAX} bytes, got {len(body)}")
    # No line above the separator can be empty, so the first empty line is it.
    head, separator, note = decode_text(body).partition("\n\n")
    if not separator:
        raise MalformedError("a request has an empty line between its proof and its checkpoint")
    # A proof has few lines, and a hundred thousand of them would take milliseconds: the last one
    # holds all that are too many, and is no hash.
    return head.split("\n", PROOF_HASHES_MAX + 3), note


def format_add_checkpoint(request: AddCheckpoint) -> bytes:
    """The body of a request."""
    proof = "".join(f"{format_base64(hash_)}\n" for hash_ in request.proof)
    return f"{_OLD}{request.old_size}\n{proof}\n{request.signed.note}".encode()


def authenticate(
    request: AddCheckpoint, *, log: Iterable[NoteVerifier] | None
) -> Authentic | Refused:
    """Check the log's signatures and the sizes, without any state."""
    checkpoint = request.signed.checkpoint
    keys = {} if log is None else {(key.name, key.key_id): key for key in log}
    if not keys:
        return Refused(404, "no log of this origin is known here")
    try:
        signatures = verify_note(request.signed.as_note(), keys.values())
    except VerificationError as error:
        return Refused(403, str(error))
    # One line for each key, so that repeated lines of one key are not stored.
    by_key: dict[tuple[str, int], Signature] = {}
    for signature in signatures:
        by_key.setdefault((signature.name, signature.key_id), signature)
    if checkpoint.extensions and all(keys[key].algorithm == MLDSA44_COSIGNATURE for key in by_key):
        # An ML-DSA-44 signature leaves them out: anybody could have written them.
        return Refused(403, "no trusted key signed the extension lines")
    if request.old_size > checkpoint.tree_size:
        return Refused(
            400,
            f"the old size {request.old_size} is larger than the checkpoint's, "
            f"{checkpoint.tree_size}",
        )
    return Authentic(request, tuple(by_key.values()))


def compare(authentic: Authentic, *, known: SignedCheckpoint | None) -> SignedCheckpoint | Refused:
    """Check that the tree extends the one cosigned last; one transaction with the update.

    Returns the checkpoint to cosign, with the verified signatures of the log alone.
    """
    request = authentic.request
    checkpoint = request.signed.checkpoint
    known_size, known_root = 0, EMPTY_ROOT_HASH
    if known is not None:
        known_size, known_root = known.checkpoint.tree_size, known.checkpoint.root_hash
    if request.old_size != known_size:
        return Refused(409, f"the head cosigned last has size {known_size}", known_size)
    try:
        check_consistency(
            old_size=known_size,
            new_size=checkpoint.tree_size,
            proof=request.proof,
            old_root=known_root,
            new_root=checkpoint.root_hash,
        )
    except VerificationError as error:
        return Refused(422, str(error))
    return SignedCheckpoint(checkpoint, authentic.signatures)


def is_fork(authentic: Authentic, known: SignedCheckpoint | None) -> bool:
    """Whether the log signed two trees of one size, which proves that it misbehaves."""
    if known is None:
        return False
    old, new = known.checkpoint, authentic.request.signed.checkpoint
    return new.tree_size == old.tree_size and new.root_hash != old.root_hash


def advance(
    authentic: Authentic,
    *,
    known: SignedCheckpoint | None,
    signers: Sequence[CosignatureSigner],
    time_unix_s: int,
) -> SignedCheckpoint | Refused:
    """Compare and cosign; the result must be stored before it is shown.

    A checkpoint that was cosigned in the same second gives the stored head back.
    Cost: two hashes for each of the proof and a signature a key, 25 or 640 µs.
    """
    signed = compare(authentic, known=known)
    if isinstance(signed, Refused):
        return signed
    if time_unix_s <= 0:
        return Refused(503, "the clock is not set")
    if known is not None:
        behind_s = cosigned_at(known) - time_unix_s
        if behind_s > 0:
            return Refused(503, f"the clock is {behind_s} s behind the head cosigned last")
        if behind_s == 0 and known.checkpoint == signed.checkpoint:
            return known
    signers = signers_of(signed.checkpoint, signers)
    if not signers:
        return Refused(403, "no key of this witness signs extension lines")
    return cosign(signed, signers, time_unix_s=time_unix_s)


def signers_of(
    checkpoint: Checkpoint, signers: Sequence[CosignatureSigner]
) -> list[CosignatureSigner]:
    """The keys that cosign all of a checkpoint: ML-DSA-44 leaves extension lines out."""
    if not checkpoint.extensions:
        return list(signers)
    return [each for each in signers if each.verifier.key.algorithm != MLDSA44_COSIGNATURE]


def cosign(
    signed: SignedCheckpoint, signers: Sequence[CosignatureSigner], *, time_unix_s: int
) -> SignedCheckpoint:
    """Cosign what `compare` returned, with each key.

    Raises: ValueError for time 0, which stands for an unknown time.
    """
    if time_unix_s <= 0:
        raise ValueError(f"a witness states the time of its cosignature: {time_unix_s}")
    if not signers:
        raise ValueError("a witness has at least one key")
    text = signed.as_note().text
    cosignatures = [signer.sign(text, time_unix_s=time_unix_s) for signer in signers]
    return SignedCheckpoint(signed.checkpoint, (*signed.signatures, *cosignatures))


def cosigned_at(head: SignedCheckpoint) -> int:
    """The time of a head that `cosign` made, in seconds since 1970.

    The witness's own cosignatures stand last, and state one time.
    """
    return cosigned_at_unix_s(head.signatures[-1])


def cosignatures_by(
    head: SignedCheckpoint, signers: Iterable[CosignatureSigner]
) -> tuple[Signature, ...]:
    """The signatures of a head by these keys, for the answer."""
    keys = {(signer.verifier.name, signer.verifier.key_id) for signer in signers}
    return tuple(line for line in head.signatures if (line.name, line.key_id) in keys)


def verify_cosignatures(
    body: bytes, text: str, keys: Mapping[tuple[str, int], CosignatureVerifier]
) -> tuple[Signature, ...]:
    """The cosignatures of a note's text by known keys, by name and key id, in the body of a 200.

    Others are ignored; one bad one by a known key condemns the answer.
    Raises: MalformedError, VerificationError.
    """
    cosignatures: dict[tuple[str, int], Signature] = {}
    for signature in parse_cosignatures(body):
        key = (signature.name, signature.key_id)
        if key in keys:
            keys[key].check(text, signature)
            cosignatures[key] = signature
    return tuple(cosignatures.values())


def format_size_answer(size: int) -> str:
    """The body of a 409: the size, a line."""
    return f"{size}\n"


def parse_size_answer(body: bytes) -> int:
    """The size in the body of a 409: the witness claims it, and nothing proves it.

    Raises: MalformedError.
    """
    line, newline, rest = decode_text(body).partition("\n")
    if not newline or rest:
        raise MalformedError("the answer is not one line")
    return parse_size(line)


def format_cosignatures(cosignatures: Iterable[Signature]) -> str:
    """The body of a 200: signature lines."""
    return "".join(f"{format_signature_line(cosignature)}\n" for cosignature in cosignatures)


def parse_cosignatures(body: bytes) -> tuple[Signature, ...]:
    """The signature lines in the body of a 200; nothing in them is verified yet.

    Raises: MalformedError for anything else, and for none at all.
    """
    if len(body) > ANSWER_BYTES_MAX:
        raise MalformedError(f"an answer has at most {ANSWER_BYTES_MAX} bytes, got {len(body)}")
    *lines, rest = decode_text(body).split("\n")
    if rest or not lines:
        raise MalformedError("an answer is signature lines, each with its newline")
    return tuple(map(parse_signature_line, lines))
