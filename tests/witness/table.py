"""Requests to a witness, each with the answer that the specification gives it.

They are put to our own witness and to other people's, over HTTP. DIFFERENCES names where one of
those answers otherwise, and why. A row has a log of its own, of which the witness has cosigned the
sizes `known`, one after the other, before the request is made.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ledger_core.tlog.note import Signer
from ledger_core.tlog.text import format_base64
from tests.witness.logs import FORK, FORK_SIZE, TREE, Log

BODY_BYTES = 10_000_000


@dataclass(frozen=True)
class Row:
    """A request and its answer. `known_size` is what a 409 must say."""

    name: str
    status: int
    body: Callable[[Log], bytes]
    known: tuple[int, ...] = ()
    known_size: int | None = None

    @property
    def log(self) -> Log:
        """The log that asks."""
        return Log(f"example.com/{self.name.replace(' ', '-').replace('+', 'plus')}")


def _replace(log: Log, old: str, new: str, *, body: bytes | None = None) -> bytes:
    """A right request with a fault in it."""
    good = (log.grow(5, 9) if body is None else body).decode()
    assert old in good, f"{old!r} is not in the request"
    return good.replace(old, new, 1).encode()


def _loose(encoded: str) -> str:
    """Base64 with bits set behind its end: it decodes to the same bytes, mostly."""
    assert encoded.endswith("=")
    body, pad = encoded.rstrip("="), encoded.count("=") * "="
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return body[:-1] + alphabet[alphabet.index(body[-1]) + 1] + pad


def _root(tree_size: int) -> str:
    return format_base64(TREE.root(tree_size))


def _proof_line(log: Log) -> str:
    return format_base64(log.proof(5, 9)[0])


def _signature(log: Log) -> str:
    return log.note(9).rstrip("\n").rpartition(" ")[2]


def _foreign(number: int = 0) -> Signer:
    return Signer.generate(f"example.com/foreign{number}", seed=number.to_bytes(32))


ROWS = (
    # 200
    Row("the first head", 200, lambda log: log.grow(0, 7)),
    Row("a larger head", 200, lambda log: log.grow(5, 9), known=(5,)),
    Row("one leaf more", 200, lambda log: log.grow(8, 9), known=(3, 8)),
    Row("the same head again", 200, lambda log: log.grow(5, 5), known=(5,)),
    Row("the empty tree", 200, lambda log: log.grow(0, 0)),
    Row("the empty tree again", 200, lambda log: log.grow(0, 0), known=(0,)),
    Row("a head after the empty tree", 200, lambda log: log.grow(0, 7), known=(0,)),
    Row(
        "a signature of a stranger beside the good one",
        200,
        lambda log: log.ask(0, log.signed(log.text(7), _foreign(), log.stranger, log.signer)),
    ),
    Row(
        "the good signature twice",
        200,
        lambda log: log.ask(0, log.signed(log.text(7), log.signer, log.signer)),
    ),
    Row(
        "sixteen signatures",
        200,
        lambda log: log.ask(0, log.signed(log.text(7), *map(_foreign, range(15)), log.signer)),
    ),
    Row(
        "extension lines",
        200,
        lambda log: log.ask(0, log.signed(log.text(7, extensions=["one", "two"]))),
    ),
    # 400: not the format
    Row("an empty body", 400, lambda log: b""),
    Row("no old size", 400, lambda log: f"\n{log.note(7)}".encode()),
    Row("an old size of 01", 400, lambda log: log.ask("01", log.note(1)), known=(1,)),
    Row("an old size of +5", 400, lambda log: log.ask("+5", log.note(5)), known=(5,)),
    Row("an old size of -1", 400, lambda log: log.ask("-1", log.note(5))),
    Row("an old size of 2 to the 64", 400, lambda log: log.ask(str(2**64), log.note(5))),
    Row("a space behind the old size", 400, lambda log: log.ask("0 ", log.note(5))),
    Row("two spaces before the old size", 400, lambda log: log.ask(" 0", log.note(5))),
    Row("no final newline", 400, lambda log: log.grow(0, 5)[:-1]),
    Row("a newline too many", 400, lambda log: log.grow(0, 5) + b"\n"),
    Row("CRLF", 400, lambda log: log.grow(0, 5).replace(b"\n", b"\r\n")),
    Row("CRLF in the request alone", 400, lambda log: _replace(log, "\n", "\r\n"), known=(5,)),
    Row("no empty line", 400, lambda log: _replace(log, "\n\n", "\n"), known=(5,)),
    Row(
        "64 hashes in the proof",
        400,
        lambda log: log.ask(5, log.note(9), [bytes(32)] * 64),
        known=(5,),
    ),
    Row(
        "a hash of 31 bytes",
        400,
        lambda log: log.ask(5, log.note(9), [bytes(31)]),
        known=(5,),
    ),
    Row(
        "loose base64 in the proof",
        400,
        lambda log: _replace(log, _proof_line(log), _loose(_proof_line(log))),
        known=(5,),
    ),
    Row(
        "loose base64 in the root",
        400,
        lambda log: log.ask(0, log.signed(log.text(7).replace(_root(7), _loose(_root(7))))),
    ),
    Row(
        "loose base64 in the signature",
        400,
        lambda log: _replace(log, _signature(log), _loose(_signature(log))),
        known=(5,),
    ),
    Row(
        "no padding in the proof",
        400,
        lambda log: _replace(log, _proof_line(log), _proof_line(log).rstrip("=")),
        known=(5,),
    ),
    Row(
        "no padding in the root",
        400,
        lambda log: log.ask(0, log.signed(log.text(7).replace("=", ""))),
    ),
    Row(
        "no padding in the signature",
        400,
        lambda log: _replace(log, _signature(log), _signature(log).rstrip("=")),
        known=(5,),
    ),
    Row(
        "a tree size of 07",
        400,
        lambda log: log.ask(0, log.signed(log.text(7).replace("\n7\n", "\n07\n"))),
    ),
    Row(
        "a tree size of 2 to the 63",
        400,
        lambda log: log.ask(0, log.signed(log.text(7).replace("\n7\n", f"\n{2**63}\n"))),
    ),
    Row(
        "two lines in the checkpoint",
        400,
        lambda log: log.ask(0, log.signed(f"{log.origin}\n7\n")),
    ),
    Row(
        "an empty line in the checkpoint",
        400,
        lambda log: log.ask(0, log.signed(log.text(7) + "\nmore\n")),
    ),
    Row("no signature line", 400, lambda log: log.ask(0, log.text(7) + "\n")),
    Row(
        "a signature line with a hyphen",
        400,
        lambda log: _replace(log, "\n— ", "\n- "),
        known=(5,),
    ),
    Row(
        "a control character",
        400,
        lambda log: _replace(log, f"\n{_root(9)}\n", f"\n{_root(9)}\nbell\a\n"),
        known=(5,),
    ),
    Row("bytes that are not UTF-8", 400, lambda log: log.grow(0, 7) + b"\xff\n"),
    Row("ten megabytes", 413, lambda log: log.grow(0, 7) + b"x" * BODY_BYTES),
    # 404, 403
    Row("an unknown origin", 404, lambda log: Log("example.com/nobody").grow(0, 7)),
    Row(
        "an unknown origin and a known key",
        404,
        lambda log: log.ask(0, log.signed(Log("example.com/nobody").text(7))),
    ),
    Row(
        "an unknown origin and an old size too large",
        404,
        lambda log: Log("example.com/nobody").ask(8, Log("example.com/nobody").note(7)),
    ),
    Row(
        "no signature of the log",
        403,
        lambda log: log.ask(0, log.signed(log.text(7), log.stranger)),
    ),
    Row("a bad signature", 403, lambda log: log.ask(0, f"{log.text(7)}\n{log.bad_line()}")),
    Row(
        "a bad signature behind the good one",
        403,
        lambda log: log.grow(0, 7) + log.bad_line().encode(),
    ),
    Row(
        "a bad signature before the good one",
        403,
        lambda log: _replace(log, "\n\n— ", f"\n\n{log.bad_line()}— ", body=log.grow(0, 7)),
    ),
    Row(
        "a bad signature and an old size too large",
        403,
        lambda log: log.ask(8, f"{log.text(7)}\n{log.bad_line()}"),
    ),
    Row(
        "the signature of another log",
        403,
        lambda log: log.ask(0, log.signed(log.text(7), Log("example.com/the-first-head").signer)),
    ),
    # 400: the sizes
    Row("an old size too large", 400, lambda log: log.ask(8, log.note(7)), known=(7,)),
    Row("an old size too large and unknown", 400, lambda log: log.ask(8, log.note(7)), known=(3,)),
    # 409
    Row(
        "an old size of 0 to learn the size",
        409,
        lambda log: log.grow(0, 9),
        known=(5,),
        known_size=5,
    ),
    Row("an old size too small", 409, lambda log: log.grow(3, 9), known=(5,), known_size=5),
    Row("an old size not reached yet", 409, lambda log: log.grow(7, 9), known=(5,), known_size=5),
    Row("an old size where nothing is known", 409, lambda log: log.grow(7, 9), known_size=0),
    Row("a smaller head", 409, lambda log: log.grow(3, 4), known=(3, 5), known_size=5),
    Row(
        "another old size and a wrong proof",
        409,
        lambda log: log.ask(3, log.note(9), [bytes(32)]),
        known=(5,),
        known_size=5,
    ),
    # 422
    Row(
        "the empty tree with another root",
        422,
        lambda log: log.ask(0, log.signed(log.text(0, root=bytes(32)))),
    ),
    Row(
        "the empty tree with another root again",
        422,
        lambda log: log.ask(0, log.signed(log.text(0, root=bytes(32)))),
        known=(0,),
    ),
    Row("a proof from nothing", 422, lambda log: log.ask(0, log.note(7), [bytes(32)])),
    Row("a proof of nothing", 422, lambda log: log.ask(0, log.note(0), [bytes(32)])),
    Row(
        "a proof between equal sizes",
        422,
        lambda log: log.ask(5, log.note(5), [bytes(32)]),
        known=(5,),
    ),
    Row(
        "the same size with another root",
        422,
        lambda log: Log(log.origin, FORK).grow(9, 9),
        known=(9,),
    ),
    Row(
        "a fork with a proof of its own",
        422,
        lambda log: Log(log.origin, FORK).grow(9, 12),
        known=(9,),
    ),
    Row(
        "a fork behind what they share",
        200,
        lambda log: Log(log.origin, FORK).grow(FORK_SIZE, 12),
        known=(FORK_SIZE,),
    ),
    Row("no proof", 422, lambda log: log.ask(5, log.note(9)), known=(5,)),
    Row(
        "a proof too short",
        422,
        lambda log: log.ask(5, log.note(9), log.proof(5, 9)[:-1]),
        known=(5,),
    ),
    Row(
        "a proof too long",
        422,
        lambda log: log.ask(5, log.note(9), [*log.proof(5, 9), bytes(32)]),
        known=(5,),
    ),
    Row(
        "a proof of other sizes",
        422,
        lambda log: log.ask(5, log.note(9), log.proof(6, 9)),
        known=(5,),
    ),
    Row(
        "a proof in another order",
        422,
        lambda log: log.ask(5, log.note(9), log.proof(5, 9)[::-1]),
        known=(5,),
    ),
    Row(
        "63 hashes in the proof",
        422,
        lambda log: log.ask(5, log.note(9), [bytes(32)] * 63),
        known=(5,),
    ),
)


@dataclass(frozen=True)
class Difference:
    """Rows to which another witness gives another status."""

    witness: str
    status: int
    reason: str
    rows: tuple[str, ...]


DIFFERENCES = (
    Difference(
        "aics",
        403,
        "two lines by one trusted key condemn the note",
        ("the good signature twice",),
    ),
    Difference(
        "litewitness",
        200,
        "the old size is read with Go's ParseInt, which takes a sign and leading zeros",
        ("an old size of 01", "an old size of +5"),
    ),
    Difference(
        "litewitness",
        200,
        "base64 may have any bits behind its end",
        ("loose base64 in the proof", "loose base64 in the signature"),
    ),
    Difference(
        "litewitness",
        500,
        "the loose base64 is seen when the checkpoint is to be signed, after it was kept",
        ("loose base64 in the root",),
    ),
    Difference(
        "litewitness",
        500,
        "a body over its limit of 10 KiB is an error of the reader",
        ("ten megabytes",),
    ),
    Difference(
        "litewitness",
        200,
        "Go's note.Open skips further lines by a key of which it has seen a good one",
        ("a bad signature behind the good one",),
    ),
    Difference(
        "litewitness",
        200,
        "from an old size of 0 neither the proof nor the root is looked at",
        (
            "the empty tree with another root",
            "the empty tree with another root again",
            "a proof from nothing",
            "a proof of nothing",
        ),
    ),
    Difference(
        "omniwitness",
        200,
        "the old size is read with Go's Sscanf, which takes leading zeros and spaces",
        (
            "an old size of 01",
            "a space behind the old size",
            "two spaces before the old size",
        ),
    ),
    Difference(
        "omniwitness",
        200,
        "Go's ReadLine takes a carriage return for part of the line's end",
        ("CRLF in the request alone",),
    ),
    Difference(
        "omniwitness",
        200,
        "base64 may have any bits behind its end",
        (
            "loose base64 in the proof",
            "loose base64 in the root",
            "loose base64 in the signature",
        ),
    ),
    Difference(
        "omniwitness",
        200,
        "a tree size is any uint64, with leading zeros, and extension lines may be empty",
        ("a tree size of 07", "a tree size of 2 to the 63", "an empty line in the checkpoint"),
    ),
    Difference(
        "omniwitness",
        422,
        "the hashes of a proof are counted and measured when it is checked",
        ("64 hashes in the proof", "a hash of 31 bytes"),
    ),
    Difference(
        "omniwitness",
        400,
        "a body over its limit of 16 KiB is malformed",
        ("ten megabytes",),
    ),
    Difference(
        "omniwitness",
        500,
        "what its parser of notes and checkpoints says has no status of its own",
        (
            "no final newline",
            "a newline too many",
            "CRLF",
            "no padding in the root",
            "no padding in the signature",
            "two lines in the checkpoint",
            "no signature line",
            "a signature line with a hyphen",
            "a control character",
            "bytes that are not UTF-8",
        ),
    ),
    Difference(
        "omniwitness",
        500,
        "a log that is not in its database is an error of the database",
        (
            "an unknown origin",
            "an unknown origin and a known key",
            "an unknown origin and an old size too large",
        ),
    ),
    Difference(
        "omniwitness",
        500,
        "what its verifier of notes says has no status of its own",
        (
            "no signature of the log",
            "a bad signature",
            "a bad signature before the good one",
            "a bad signature and an old size too large",
            "the signature of another log",
        ),
    ),
    Difference(
        "omniwitness",
        200,
        "Go's note.Open skips further lines by a key of which it has seen a good one",
        ("a bad signature behind the good one",),
    ),
    Difference(
        "omniwitness",
        200,
        "the first head is taken as it comes, whatever old size and proof are with it",
        ("an old size where nothing is known", "a proof from nothing", "a proof of nothing"),
    ),
    Difference(
        "sunlight",
        400,
        "extension lines are refused",
        ("extension lines",),
    ),
    Difference(
        "sunlight",
        422,
        "the hashes of a proof are counted when it is checked",
        ("64 hashes in the proof",),
    ),
    Difference(
        "sunlight",
        200,
        "base64 may have any bits behind its end",
        (
            "loose base64 in the proof",
            "loose base64 in the root",
            "loose base64 in the signature",
        ),
    ),
    Difference(
        "sunlight",
        500,
        "a body over its limit is an error of the reader",
        ("ten megabytes",),
    ),
    Difference(
        "sunlight",
        200,
        "Go's note.Open skips further lines by a key of which it has seen a good one",
        ("a bad signature behind the good one",),
    ),
)


def want_status(row: Row, witness: str) -> int:
    """The status that a witness gives to a row."""
    for difference in DIFFERENCES:
        if difference.witness == witness and row.name in difference.rows:
            return difference.status
    return row.status
