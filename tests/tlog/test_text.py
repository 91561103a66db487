"""One spelling for each value."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import SIZE_MAX
from ledger_core.tlog.text import (
    decode_text,
    excerpt,
    format_base64,
    from_wire,
    parse_base64,
    parse_hash,
    parse_size,
    printable,
    printable_id,
)

OTHER_NUMBERS = (
    *("", "+5", "-1", "05", "00", "1_0", " 1", "1 ", "1\n", "٣", "３", "0x1", "1e3", "1.0"),
    *(str(2**63), str(2**64), "9" * 5000),
)

OTHER_BASE64 = (
    *("Q", "QQ", "QQ=", "====", "=QQ=", "QUJDR", "QQ==QQ=="),
    *("QR==", "QUJ="),  # Trailing bits that are not zero.
    *("QQ==\n", " QQ==", "Q Q==", "Q-==", "Q_==", "QÄ=="),
)


@given(st.integers(0, SIZE_MAX))
def test_every_size_is_read_from_its_decimal_spelling(size: int) -> None:
    assert parse_size(str(size)) == size


@pytest.mark.parametrize("text", OTHER_NUMBERS)
def test_a_number_in_another_spelling_or_out_of_range_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_size(text)


@given(st.text(alphabet="0123456789+-_ ٣\n", max_size=8))
def test_what_is_read_as_a_size_is_spelled_the_same_again(text: str) -> None:
    try:
        size = parse_size(text)
    except MalformedError:
        return
    assert str(size) == text


@given(st.binary(max_size=100))
def test_base64_of_any_bytes_is_read_back(data: bytes) -> None:
    text = format_base64(data)
    assert text.encode() == b64encode(data)
    assert parse_base64(text) == data


@pytest.mark.parametrize("text", OTHER_BASE64)
def test_base64_in_another_spelling_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_base64(text)


@given(st.text(alphabet="QRUJ-_=+/ \n", max_size=9))
def test_what_is_read_as_base64_is_spelled_the_same_again(text: str) -> None:
    try:
        data = parse_base64(text)
    except MalformedError:
        return
    assert format_base64(data) == text


@pytest.mark.parametrize("size_bytes", [0, 31, 33, 64])
def test_a_hash_of_another_length_is_malformed(size_bytes: int) -> None:
    with pytest.raises(MalformedError, match=f"got {size_bytes} bytes, want 32"):
        parse_hash(format_base64(bytes(size_bytes)))


def test_a_hash_is_read_from_base64() -> None:
    assert parse_hash("A" * 43 + "=") == bytes(32)


@pytest.mark.parametrize(
    "data", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5", "\ud800", "a\udcff"]
)
def test_text_that_is_not_utf_8_is_malformed(data: bytes | str) -> None:
    with pytest.raises(MalformedError, match="not UTF-8"):
        decode_text(data)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_text_is_the_same_as_bytes_and_as_str(text: str) -> None:
    assert decode_text(text) == decode_text(text.encode()) == text


def test_an_excerpt_is_short_and_printable() -> None:
    assert excerpt("a\n\u202eb") == r"'a\n\u202eb'"
    assert len(excerpt("x" * 10_000)) < 100


def test_a_rule_broken_by_what_was_received_is_malformed() -> None:
    with pytest.raises(MalformedError, match="too big"), from_wire():
        raise ValueError("too big")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a b", "a b"),
        ("a\nb", "a\ufffdb"),
        ("\x1b[31m", "\ufffd[31m"),
        ("é\u202e", "é\ufffd"),
        ("", ""),
        ("jo\u3164", "jo\ufffd"),
        ("j\u034fo\u2800", "j\ufffdo\ufffd"),
        ("jo\ufe0f\u115f", "jo\ufffd\ufffd"),
        ("\u2764\ufe0f 1\ufe0f\u20e3", "\u2764\ufe0f 1\ufe0f\u20e3"),
        ("\u845b\U000e0100", "\u845b\U000e0100"),
        ("e\u0301 \u0928\u0940", "e\u0301 \u0928\u0940"),
    ],
)
def test_foreign_text_is_shown_on_one_line_without_escapes(text: str, want: str) -> None:
    assert printable(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("jo", "jo"),
        ("jo doe", "jo doe"),
        ("jo  ", "jo\u2423\u2423"),
        (" jo\n", "\u2423jo\ufffd"),
        ("  ", "\u2423\u2423"),
    ],
)
def test_an_id_with_blanks_at_its_ends_does_not_look_like_another(text: str, want: str) -> None:
    assert printable_id(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("\u0430dmin", "<U+0430>dmin"),
        ("r\u043e\u043et@example.com", "r<U+043E><U+043E>t@example.com"),
        ("\u03bfwner", "<U+03BF>wner"),
        ("admi\u0301n\u0456", "admi\u0301n<U+0456>"),
        ("a\u217emin", "a<U+217E>min"),
        ("\ufb01nance", "<U+FB01>nance"),
        ("\U0001d5baadmin", "<U+1D5BA>admin"),
        ("\ua4d3avid", "<U+A4D3>avid"),
        ("u_\U0001d7e3", "u_<U+1D7E3>"),
        ("\u0438\u0432\u0430\u043do\u0432", "\u0438\u0432\u0430\u043d<U+006F>\u0432"),
        # People have such names, and such addresses.
        *[
            (name, name)
            for name in (
                *("иван", "иван@example.com", "Иван Smith", "ελένη_2", "müller", "jo-ł", "ab12"),
                *("田中Taro", "김minsu", "µTorrent", "محمد", "d'Été", "Ａdmin", "CORP\\иван"),
                *("部署１", "Nº5", "x²", "ＡＢ", "straße", "dž"),
            )
        ],
    ],
)
def test_a_letter_of_another_alphabet_in_a_word_is_shown_as_its_number(
    text: str, want: str
) -> None:
    assert printable_id(text) == want
    assert printable_id(f"{text} ") == f"{want}\u2423"
