"""Checkpoints: what they can say, for every value; their faults are in `test_texts`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    format_checkpoint,
    parse_checkpoint,
    parse_signed_checkpoint,
)
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import SIZE_MAX
from ledger_core.tlog.note import Note, Signer, format_note
from ledger_core.tlog.tree import TreeHead

lines = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
checkpoints = st.builds(
    Checkpoint,
    lines,
    st.integers(0, SIZE_MAX),
    st.binary(min_size=32, max_size=32),
    st.lists(lines, max_size=4).map(tuple),
)


@given(checkpoints)
def test_every_checkpoint_is_read_back(checkpoint: Checkpoint) -> None:
    text = format_checkpoint(checkpoint)
    assert parse_checkpoint(text) == checkpoint
    assert parse_checkpoint(text.encode()) == checkpoint


@given(st.text(alphabet="ab\n 019+=AQ", max_size=80))
def test_what_is_read_as_a_checkpoint_is_written_the_same_again(text: str) -> None:
    try:
        checkpoint = parse_checkpoint(text)
    except MalformedError:
        return
    assert format_checkpoint(checkpoint) == text


@pytest.mark.parametrize(
    ("origin", "tree_size", "root_hash", "extensions"),
    [
        ("", 7, bytes(32), ()),
        ("two\nlines", 7, bytes(32), ()),
        ("tab\t", 7, bytes(32), ()),
        ("\ud800", 7, bytes(32), ()),
        ("é" * 128, 7, bytes(32), ()),
        ("origin", -1, bytes(32), ()),
        ("origin", SIZE_MAX + 1, bytes(32), ()),
        ("origin", 7, bytes(31), ()),
        ("origin", 7, bytes(32), ("",)),
        ("origin", 7, bytes(32), ("two\nlines",)),
    ],
)
def test_a_checkpoint_that_cannot_be_written_cannot_be_made(
    origin: str, tree_size: int, root_hash: bytes, extensions: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r"."):
        Checkpoint(origin, tree_size, root_hash, extensions)


@pytest.mark.parametrize(("origin", "tree_size"), [("x" * 255, 7), ("origin", 2**63 - 1)])
def test_a_checkpoint_of_the_largest_values_is_read_back(origin: str, tree_size: int) -> None:
    checkpoint = Checkpoint(origin, tree_size, bytes(32))
    assert parse_checkpoint(format_checkpoint(checkpoint)) == checkpoint


SIGNER = Signer.generate("example.com/audit", seed=bytes(32))


def test_a_signed_checkpoint_is_its_note_and_the_note_is_read_back() -> None:
    checkpoint = Checkpoint("example.com/audit", 7, bytes(32), ("an extension",))
    text = format_checkpoint(checkpoint)
    signed = SignedCheckpoint(checkpoint, (SIGNER.sign(text),))
    assert signed.note.startswith(f"{text}\n— example.com/audit ")
    assert parse_signed_checkpoint(signed.note) == signed
    assert parse_signed_checkpoint(signed.note.encode()).note == signed.note
    assert signed.head == checkpoint.head == TreeHead(7, bytes(32))
    SIGNER.verifier.check(signed.as_note().text, signed.signatures[0])


def test_a_checkpoint_without_a_signature_has_no_note() -> None:
    checkpoint = Checkpoint("example.com/audit", 7, bytes(32))
    with pytest.raises(ValueError, match="at least 1 and at most 64 signatures, got 0"):
        SignedCheckpoint(checkpoint, ())
    with pytest.raises(MalformedError):
        parse_signed_checkpoint(format_checkpoint(checkpoint))


def test_a_note_that_is_no_checkpoint_is_malformed() -> None:
    text = "example.com/audit\n7\n"
    note = format_note(Note(text, (SIGNER.sign(text),)))
    with pytest.raises(MalformedError, match="3 lines"):
        parse_signed_checkpoint(note)
