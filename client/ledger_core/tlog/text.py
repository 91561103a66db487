"""The text of numbers, base64 and hashes, as all formats of a transparency log share it.

Each value has one spelling. An accepted text formats back to the same bytes, so two readers never
see one text as two values, and nobody can change a proof or a note without changing a value.

    size     20852163                                      no sign, no leading zero, < 2^63
    base64   CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=  RFC 4648 §4, padded, trailing bits zero
    text     UTF-8, well-formed; lone surrogates are refused

Python's `int()` accepts `+5`, `1_000` and `٣`; its `b64decode()` skips unknown characters and
ignores trailing bits. Neither may read foreign text.
"""

import re
import unicodedata
from binascii import a2b_base64, b2a_base64
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import HASH_BYTES, SIZE_MAX, Hash

EXCERPT_CHARS_MAX = 64

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
# What Python calls printable and has no width, or that of a blank: fillers and joiners. Selectors
# of variants show behind the signs that have some, and behind ASCII only in the emoji of a digit.
# Source: DerivedCoreProperties.txt (Default_Ignorable_Code_Point).
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\uffa0]"
    "|(?<![^ -~])[\ufe00-\ufe0f\U000e0100-\U000e01ef](?!\u20e3)"
)

# Alphabets with letters that look like those of another one. In other scripts, such as those of
# Chinese, Japanese and Korean, words with Latin letters are common, and no letter looks like one.
_ALPHABETS = frozenset(
    {
        *("ARMENIAN", "CANADIAN", "CARIAN", "CHEROKEE", "COPTIC", "CYRILLIC", "DESERET"),
        *("ELBASAN", "GREEK", "LATIN", "LISU", "LYCIAN", "LYDIAN", "OSAGE", "TIFINAGH"),
    }
)
# What Unicode has beside the letters of ASCII for other systems, and shows like them: the Roman
# numeral U+217E is a `d`. Letters as wide as a Chinese sign, and small raised ones, do not.
_is_double = re.compile(r"<(?:compat|font)>(?: 00[46][1-9A-F]| 00[57][0-9A])+").fullmatch
_DOUBLES = "DOUBLES"
_find_digits = re.compile("[\U0001d7ce-\U0001d7ff\U0001fbf0-\U0001fbf9]")
_find_words = re.compile(r"(?:[^\W\d_]|[\u0300-\u036f])+")


@contextmanager
def from_wire() -> Iterator[None]:
    """Turn a ValueError in this block into a MalformedError: its values come from elsewhere.

    So each rule is written once, where the value is made: breaking it is the caller's mistake
    there, and the sender's mistake in such a block.
    """
    try:
        yield
    except MalformedError:
        raise
    except ValueError as error:
        raise MalformedError(str(error)) from None


def parse_size(text: str) -> int:
    """Parse a decimal number in [0, 2^63): a tree size, an index or a time.

    Raises: MalformedError for anything but ASCII digits without a leading zero.
    Source: c2sp.org/tlog-checkpoint, "Note text".
    """
    if _DECIMAL.fullmatch(text) is None:
        raise MalformedError(f"not a decimal number without leading zeros: {excerpt(text)}")
    size = int(text)
    if size > SIZE_MAX:
        raise MalformedError(f"number out of range: {text} is not below 2^63")
    return size


def parse_base64(text: str) -> bytes:
    """Decode canonical, padded, standard base64.

    Raises: MalformedError for another alphabet, missing padding, spaces, or trailing bits that
    are not zero.
    Source: RFC 4648 §4, §3.5.
    """
    try:
        data = a2b_base64(text, strict_mode=True)
    except ValueError:
        raise MalformedError(f"not base64: {excerpt(text)}") from None
    if format_base64(data) != text:
        raise MalformedError(f"not canonical base64: {excerpt(text)}")
    return data


def format_base64(data: bytes) -> str:
    """Canonical, padded, standard base64. Source: RFC 4648 §4."""
    return b2a_base64(data, newline=False).decode("ascii")


def parse_hash(text: str) -> Hash:
    """Decode a hash in base64: 44 characters, 32 bytes. Raises: MalformedError."""
    data = parse_base64(text)
    if len(data) != HASH_BYTES:
        raise MalformedError(f"not a hash: got {len(data)} bytes, want {HASH_BYTES}")
    return data


def decode_text(data: bytes | str) -> str:
    """Decode UTF-8 bytes; a str is checked to be text that UTF-8 can carry.

    Raises: MalformedError for ill-formed UTF-8, and for a str with lone surrogates.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        text.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise MalformedError(f"not UTF-8: {error.reason} at {error.start}") from None
    return text


def is_visible(text: str) -> bool:
    """Whether each character of a text can be printed, and shows."""
    return text.isprintable() and _UNSEEN.search(text) is None


def printable(text: str) -> str:
    """Foreign text on one line, without terminal escapes: U+FFFD for what can't be printed.

    Also for what is printed and doesn't show: `jo` with such a character would look like `jo`.
    """
    if is_visible(text):
        return text
    text = _UNSEEN.sub("\ufffd", text)
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def printable_id(text: str) -> str:
    """As `printable`, with what makes another id that looks the same.

    Blanks at the ends are U+2423, and a letter of another alphabet than the rest of its word is its
    number: `<U+0430>dmin` for `admin` with a Cyrillic letter. So is a second form of a letter or
    digit of ASCII. Weak: a word whose letters are all of another alphabet looks like one of this.
    Source: UTS #39 §5, mixed-script detection.
    """
    inner = text.strip(" ")
    start = len(text) - len(text.lstrip(" "))
    end = len(text) - start - len(inner)
    shown = inner
    if not inner.isascii():
        shown = _find_digits.sub(_number, _find_words.sub(_number_strangers, inner))
    return "\u2423" * start + printable(shown) + "\u2423" * end


def _number_strangers(word: re.Match[str]) -> str:
    """A word with the numbers of its letters of another alphabet than most."""
    letters = [(char, _alphabet(char)) for char in word[0]]
    counts = Counter(alphabet for _, alphabet in letters if alphabet)
    if len(counts) < 2:  # noqa: PLR2004 - one alphabet is no mixture
        return word[0]
    most = max(counts, key=lambda alphabet: (counts[alphabet], alphabet))
    return "".join(
        char if alphabet in ("", most) else f"<U+{ord(char):04X}>" for char, alphabet in letters
    )


def _number(char: re.Match[str]) -> str:
    return f"<U+{ord(char[0]):04X}>"


def _alphabet(char: str) -> str:
    """The alphabet of a letter; "" for any other character, and for other scripts."""
    if _is_double(unicodedata.decomposition(char)):
        return _DOUBLES
    alphabet = unicodedata.name(char, "").partition(" ")[0]
    return alphabet if alphabet in _ALPHABETS else ""


def excerpt(text: str) -> str:
    """Foreign text as an error message may show it: quoted, printable and short."""
    if len(text) <= EXCERPT_CHARS_MAX:
        return ascii(text)
    return f"{text[:EXCERPT_CHARS_MAX]!a}… ({len(text)} characters)"
