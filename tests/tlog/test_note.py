"""Signed notes: who signed, who must be believed, and who must not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.keys import ED25519, ED25519_COSIGNATURE, SignerKey
from ledger_core.tlog.note import (
    NOTE_BYTES_MAX,
    SIGNATURE_BYTES_MAX,
    SIGNATURES_MAX,
    Note,
    NoteVerifier,
    Signature,
    Signer,
    Verifier,
    format_note,
    format_signature_line,
    known_keys,
    parse_note,
    parse_signature_line,
    verify_note,
)
from tests.tlog.vector_files import good_text

TEXT = "example.com/audit\nand more\n"

LOG = Signer.generate("example.com/audit", seed=bytes(32))
OTHER = Signer.generate("example.com/audit", seed=bytes([1]) * 32)
STRANGER = Signer.generate("stranger.example", seed=bytes([2]) * 32)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200).map(
    lambda text: "".join(char for char in text if char == "\n" or char >= " ") + "\n"
)
signatures = st.builds(
    Signature,
    st.sampled_from(["example.com/audit", "é", "a"]),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=1, max_size=100),
)
notes = st.builds(Note, texts, st.lists(signatures, min_size=1, max_size=8).map(tuple))


def test_the_example_of_the_specification_verifies() -> None:
    note = parse_note(good_text("note"))
    vkey = good_text("vkey")
    verifier = Verifier.parse(vkey)
    assert verify_note(note, [verifier]) == note.signatures
    assert note.text == "This is an example message.\n"
    assert str(verifier) == vkey
    assert (verifier.name, verifier.key_id, verifier.algorithm) == (
        "example.com/foo",
        0x530D903A,
        1,
    )


@given(notes)
def test_every_note_is_read_back(note: Note) -> None:
    assert parse_note(format_note(note)) == note
    assert parse_note(format_note(note).encode()) == note


@given(st.text(alphabet="— example\n+Uw2QOg=A", max_size=60))
def test_what_is_read_as_a_note_is_written_the_same_again(text: str) -> None:
    try:
        note = parse_note(text)
    except MalformedError:
        return
    assert format_note(note) == text


@given(signatures)
def test_every_signature_line_is_read_back(signature: Signature) -> None:
    assert parse_signature_line(format_signature_line(signature)) == signature


@given(texts, st.data())
def test_a_signature_holds_for_its_text_and_no_other(text: str, data: st.DataObject) -> None:
    signature = LOG.sign(text)
    LOG.verifier.check(text, signature)
    place = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(VerificationError, match="does not verify"):
        LOG.verifier.check(f"{text[:place]}x{text[place:]}", signature)


def test_unknown_signatures_are_ignored_and_known_ones_are_returned_in_order() -> None:
    made = tuple(signer.sign(TEXT) for signer in (STRANGER, OTHER, LOG))
    junk = Signature("junk.example", 7, b"junk")
    note = Note(TEXT, (junk, *made))
    assert verify_note(note, [LOG.verifier, OTHER.verifier]) == made[1:]
    assert verify_note(note, [STRANGER.verifier]) == made[:1]


def test_a_note_without_a_known_signature_is_refused() -> None:
    for verifiers in ([], [STRANGER.verifier], [OTHER.verifier]):
        with pytest.raises(VerificationError, match="no signature by a known key"):
            verify_note(Note(TEXT, (LOG.sign(TEXT),)), verifiers)


def test_a_signature_of_a_known_name_with_an_unknown_id_is_ignored() -> None:
    stray = Signature(LOG.verifier.name, LOG.verifier.key_id ^ 1, b"anything")
    good = LOG.sign(TEXT)
    assert verify_note(Note(TEXT, (stray, good)), [LOG.verifier]) == (good,)


@pytest.mark.parametrize("junk", [bytes(64), bytes(63), bytes(65), b"x"])
@pytest.mark.parametrize("is_first", [True, False])
def test_one_bad_signature_of_a_known_key_condemns_the_note(junk: bytes, is_first: bool) -> None:
    good = LOG.sign(TEXT)
    bad = Signature(good.name, good.key_id, junk)
    note = Note(TEXT, (bad, good) if is_first else (good, bad))
    with pytest.raises(VerificationError, match=r"example\.com/audit"):
        verify_note(note, [LOG.verifier])


def test_a_verifier_refuses_the_signature_of_another_key() -> None:
    with pytest.raises(VerificationError, match="want a signature of"):
        LOG.verifier.check(TEXT, OTHER.sign(TEXT))


def test_two_keys_may_not_share_name_and_id() -> None:
    class Impostor(NoteVerifier):
        """A key of another party, ground until its id was that of the log."""

        ALGORITHMS = (ED25519,)
        name, key_id = LOG.verifier.name, LOG.verifier.key_id

        def check(self, text: str, signature: Signature) -> None:
            raise AssertionError

    assert len(known_keys([LOG.verifier, LOG.verifier])) == 1
    with pytest.raises(ValueError, match="share their name and their id"):
        known_keys([LOG.verifier, Impostor(OTHER.verifier.key)])


def test_a_signer_is_read_back_and_shows_no_key() -> None:
    again = Signer.parse(LOG.encode())
    assert again.verifier == LOG.verifier
    assert again.sign(TEXT) == LOG.sign(TEXT)
    for shown in (repr(LOG), str(LOG), repr(LOG.verifier)):
        assert LOG.encode()[-20:] not in shown


def test_a_key_of_another_type_is_refused() -> None:
    cosigner = SignerKey("example.com", algorithm=ED25519_COSIGNATURE, seed=bytes(32))
    with pytest.raises(MalformedError, match="signature type 0x04, want 0x01"):
        Verifier.parse(str(cosigner.verifier_key))
    with pytest.raises(MalformedError, match="signature type 0x04, want 0x01"):
        Signer.parse(cosigner.encode())
    with pytest.raises(ValueError, match="want 0x01"):
        Verifier(cosigner.verifier_key)


@pytest.mark.parametrize(
    "text", ["", "no newline", "a\r\n", "a\tb\n", "\0\n", "x" * 65_536 + "\n", "\ud800\n"]
)
def test_a_text_that_no_note_can_carry_is_not_signed(text: str) -> None:
    with pytest.raises(ValueError, match=r"text|control|surrogates"):
        LOG.sign(text)
    with pytest.raises(ValueError, match=r"text|control|surrogates"):
        Note(text, (LOG.sign(TEXT),))


def test_a_note_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(MalformedError, match=f"at most {NOTE_BYTES_MAX} bytes"):
        parse_note(b"\xff" * (NOTE_BYTES_MAX + 1))


@pytest.mark.parametrize("dash", ["", "-", "- ", "—", " — "])
def test_a_signature_line_without_its_dash_is_refused(dash: str) -> None:
    line = format_signature_line(LOG.sign(TEXT)).removeprefix("— ")
    with pytest.raises(MalformedError, match="not a signature line"):
        parse_signature_line(dash + line)


def test_the_largest_note_is_read_back() -> None:
    signature = Signature("é" * 127, 1, bytes(SIGNATURE_BYTES_MAX))
    note = Note("x" * 65_535 + "\n", (signature,) * SIGNATURES_MAX)
    assert parse_note(format_note(note)) == note


def test_a_note_that_cannot_be_written_cannot_be_made() -> None:
    signature = LOG.sign(TEXT)
    for count in (0, SIGNATURES_MAX + 1):
        with pytest.raises(ValueError, match=f"got {count}"):
            Note(TEXT, (signature,) * count)
    for name, key_id, data in (
        ("a b", 1, b"x"),
        ("a", 2**32, b"x"),
        ("a", -1, b"x"),
        ("a", 1, b""),
    ):
        with pytest.raises(ValueError, match=r"key|signature"):
            Signature(name, key_id, data)
