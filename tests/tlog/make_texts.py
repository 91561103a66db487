"""The texts of vectors/, which `make_vectors` writes with the rest.

A kind is one good text and its faults: what is wrong, a part of the message that it must meet, what
is replaced, and by what. A fault that meets no message is none, and that text is good as well.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE
from ledger_core.tlog.note import Signer

Fault: TypeAlias = tuple[str, str | None, str, str]

VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"

SIGNATURE = (
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXm"
    "RKuwHjG1Yu72IneyaQM="
)

NOTE = f"This is an example message.\n\n{SIGNATURE}\n"
"""This and the key are the example of c2sp.org/signed-note."""

HASH = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="

CHECKPOINT = f"example.com/behind-the-sofa\n20852163\n{HASH}\n"

HEAD = f"{CHECKPOINT}\n— example.com/behind-the-sofa Az3grlgtzPI=\n"

PROOF = f"c2sp.org/tlog-proof@v1\nindex 73894\n{HASH}\n{HASH}\n\n{HEAD}"

RANGE_PROOF = f"witnessed-ledger/range-proof@v1\nrange 73894 74894\n{HASH}\n{HASH}\n\n{HEAD}"


def texts() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each kind of text with its rows."""
    yield "vkey", _rows(VKEY, VKEY_FAULTS)
    yield "note", _rows(NOTE, NOTE_FAULTS)
    yield (
        "checkpoint",
        _rows(
            CHECKPOINT,
            (*CHECKPOINT_FAULTS, *_number_faults("20852163"), *_hash_faults(HASH)),
        ),
    )
    yield "proof", _rows(PROOF, (*PROOF_FAULTS, *_number_faults("73894"), *_hash_faults(HASH)))
    yield "range_proof", _rows(RANGE_PROOF, (*RANGE_FAULTS, *_number_faults("74894")))
    yield "tile_path", _rows("tile/0/x001/x234/067", TILE_PATH_FAULTS)
    yield "policy", _rows(POLICY, POLICY_FAULTS)


def _rows(good: str, faults: tuple[Fault, ...]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"name": "as it should be", "error": None, "text": good}]
    for name, error, old, new in faults:
        if old not in good:
            raise ValueError(f"{name}: {old!r} is not in the good text")
        rows.append({"name": name, "error": error, "text": good.replace(old, new, 1)})
    return rows


def _number_faults(number: str) -> tuple[Fault, ...]:
    spellings = (
        ("a leading zero", f"0{number}"),
        ("a plus", f"+{number}"),
        ("a minus", f"-{number}"),
        ("an underscore", f"{number}_0"),
        ("an Arabic digit", f"{number}٣"),
        ("a point", f"{number}.0"),
        ("a tab after it", f"{number}\t"),
        ("nothing in it", ""),
    )
    return (
        *((f"a number with {what}", "number|control", number, new) for what, new in spellings),
        ("a number of 2^63", "2\\^63|leaves", number, str(2**63)),
        ("a number of 2^64", "number", number, str(2**64)),
    )


def _hash_faults(encoded: str) -> tuple[Fault, ...]:
    return (
        ("a hash without padding", "base64", encoded, encoded[:-1]),
        ("a hash with trailing bits", "canonical", encoded, f"{encoded[:-2]}J="),
        ("a hash in the URL alphabet", "base64", encoded, encoded.replace("/", "_")),
        ("a hash with a space", "base64", encoded, f"{encoded[:20]} {encoded[20:]}"),
        ("a hash of 31 bytes", "31 bytes", encoded, f"{encoded[:-4]}qw=="),
        ("a hash of 33 bytes", "33 bytes", encoded, f"{encoded[:-1]}A"),
        ("a hash in hex", "bytes", encoded, "0ac5186a" * 8),
    )


VKEY_FAULTS: tuple[Fault, ...] = (
    ("no name", "not a verifier key", "example.com/foo", ""),
    ("a space in the name", "space", "foo", "f o"),
    ("a no-break space in the name", "space", "foo", "f\u00a0o"),
    ("an ideographic space in the name", "space", "foo", "f\u3000o"),
    ("a newline in the name", "space", "foo", "f\no"),
    ("a plus in the name", "not a verifier key", "foo", "f+o"),
    ("a control character in the name", "control", "foo", "f\u0001o"),
    ("a name of 256 bytes", "at most 255", "example.com/foo", "é" * 128),
    ("another name", "another id", "foo", "fop"),
    ("another id", "another id", "530d903a", "530d903b"),
    ("an id in capitals", "not a verifier key", "530d903a", "530D903A"),
    ("an id of seven digits", "not a verifier key", "530d903a", "530d903"),
    ("no id", "not a verifier key", "+530d903a", ""),
    ("no key", "not a verifier key", "AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", ""),
    ("a key of another type", "signature type 0x02", "Aeky", "Auky"),
    ("a key of 31 bytes", "has 32 bytes, got 31", "3U2k", "3Uw="),
    ("a key of 33 bytes", "has 32 bytes, got 33", "3U2k", "3U2kAA=="),
    ("no padding", "base64", "3U2k", "3U2kAA"),
    ("a point off the curve", "not a point", "Aekye", "AekyD"),
    ("a newline at the end", "not a verifier key", "3U2k", "3U2k\n"),
)

NOTE_FAULTS: tuple[Fault, ...] = (
    ("an empty line in the text", None, "message.\n", "message.\n\nAnd more.\n"),
    ("two empty lines before the signatures", None, "\n\n", "\n\n\n"),
    ("a text of one empty line", None, "This is an example message.\n", "\n"),
    ("an emoji and right-to-left text", None, "example", "\U0001f512 \u05d0"),
    ("a DEL, which is no control character here", None, "example", "\u007f"),
    ("the signature twice", None, SIGNATURE, f"{SIGNATURE}\n{SIGNATURE}"),
    ("64 signatures", None, SIGNATURE, "\n".join([SIGNATURE] * 64)),
    ("65 signatures", "at most 64 signatures", SIGNATURE, "\n".join([SIGNATURE] * 65)),
    ("no text", "empty line", "This is an example message.\n", ""),
    ("no empty line", "empty line", "\n\n", "\n"),
    ("no signature", "ends with a signature", f"{SIGNATURE}\n", ""),
    ("no newline at the end", "ends with a signature", "yaQM=\n", "yaQM="),
    ("an empty line at the end", "ends with a signature", "yaQM=\n", "yaQM=\n\n"),
    ("a line that is no signature", "not a signature line", SIGNATURE, f"{SIGNATURE}\nhello"),
    ("CR and LF", "control character", "message.\n", "message.\r\n"),
    ("CR and LF after the signature", "base64", "yaQM=\n", "yaQM=\r\n"),
    ("a tab", "control character", "an example", "an\texample"),
    ("a NUL", "control character", "example", "\0"),
    ("a text of 65,537 bytes", "at most 65536 bytes", "This is an", "x" * 65520),
    ("a hyphen for the dash", "not a signature line", "— ", "- "),
    ("a no-break space after the dash", "not a signature line", "— ", "—\u00a0"),
    ("two spaces after the dash", "base64", "— ", "—  "),
    ("two spaces before the signature", "base64", "foo ", "foo  "),
    ("a space at the end", "base64", "yaQM=", "yaQM= "),
    ("no name", "not base64|not a signature line", "example.com/foo ", ""),
    ("a plus in the name", "plus", "com/foo", "com+foo"),
    ("an ideographic space in the name", "space", "com/foo", "com\u3000foo"),
    ("a name of 256 bytes", "at most 255 bytes", "example.com/foo", "é" * 128),
    ("no padding", "base64", "yaQM=", "yaQM"),
    ("trailing bits", "canonical", "yaQM=", "yaQN="),
    ("a signature cut in a group", "base64", "yaQM=", "ya"),
    ("a key id alone", "1 to 8192 bytes", SIGNATURE, "— example.com/foo Uw2QOg=="),
    ("a key id of three bytes", "1 to 8192 bytes", SIGNATURE, "— example.com/foo Uw2Q"),
    (
        "a signature of 8,999 bytes",
        "got 8999",
        SIGNATURE,
        "— example.com/foo Uw2QOg" + "A" * 11998,
    ),
)

CHECKPOINT_FAULTS: tuple[Fault, ...] = (
    ("an empty tree", None, "20852163", "0"),
    ("the largest tree", None, "20852163", str(2**63 - 1)),
    ("a space in the origin", None, "behind-the", "behind the"),
    ("an extension line", None, "I=\n", "I=\nan extension\n"),
    ("two extension lines", None, "I=\n", "I=\nan extension\nanother\n"),
    ("an empty extension line", "empty", "I=\n", "I=\n\n"),
    ("an empty line before an extension", "empty", "I=\n", "I=\n\nan extension\n"),
    ("no origin", "3 lines", "example.com/behind-the-sofa\n", ""),
    ("an empty origin", "empty", "example.com/behind-the-sofa", ""),
    ("an origin of 256 bytes", "at most 255", "example.com/behind-the-sofa", "é" * 128),
    ("no tree size", "3 lines", "20852163\n", ""),
    ("no root hash", "3 lines", f"{HASH}\n", ""),
    ("no newline at the end", "3 lines", "I=\n", "I="),
    ("nothing", "3 lines", CHECKPOINT, ""),
    ("CR and LF", "number", "20852163\n", "20852163\r\n"),
    ("a control character in the origin", "control", "sofa", "so\u0007fa"),
    ("a control character in an extension", "control", "I=\n", "I=\nan\textension\n"),
)

PROOF_FAULTS: tuple[Fault, ...] = (
    ("no hashes", None, f"{HASH}\n{HASH}\n\n", "\n"),
    ("the first leaf", None, "73894", "0"),
    ("63 hashes", None, f"{HASH}\n", f"{HASH}\n" * 62),
    ("extra data", None, "index", "extra QUJD\nindex"),
    ("64 hashes", "at most 63 hashes", f"{HASH}\n", f"{HASH}\n" * 63),
    ("127 hashes", "at most 126 hashes", f"{HASH}\n", f"{HASH}\n" * 126),
    ("empty extra data", "1 to", "index", "extra \nindex"),
    ("extra data with trailing bits", "canonical", "index", "extra QUJ=\nindex"),
    ("extra data twice", "want a line of index", "index", "extra QUJD\nextra QUJD\nindex"),
    ("extra data after the index", "base64", "73894\n", "73894\nextra QUJD\n"),
    ("the word extra alone", "want a line of index", "index", "extra\nindex"),
    ("another version", "first line", "@v1", "@v2"),
    ("another format", "first line", "c2sp.org/tlog-proof@v1", "witnessed-ledger/range-proof@v1"),
    ("a space after the first line", "first line", "@v1", "@v1 "),
    ("no first line", "first line", "c2sp.org/tlog-proof@v1\n", ""),
    ("no index", "want a line of index", "index 73894\n", ""),
    ("the word index alone", "want a line of index", "index 73894", "index"),
    ("two indices", "want a line of index", "73894", "73894 73895"),
    ("two spaces", "want a line of index", "index ", "index  "),
    ("a capital letter", "want a line of index", "index", "Index"),
    ("an index of 2^63 - 1", "not the index", "73894", str(2**63 - 1)),
    ("no empty line", "empty line", f"{HASH}\n\n", f"{HASH}\n"),
    ("two empty lines", "number|empty", f"{HASH}\n\n", f"{HASH}\n\n\n"),
    ("no checkpoint", "empty line", HEAD, ""),
    ("no signature", "empty line", "\n— example.com/behind-the-sofa Az3grlgtzPI=\n", ""),
    ("a checkpoint without its tree size", "3 lines", "20852163\n", ""),
    ("CR and LF", "number", "73894\n", "73894\r\n"),
)

RANGE_FAULTS: tuple[Fault, ...] = (
    ("one leaf", None, "74894", "73895"),
    ("the whole of the largest tree", None, "73894 74894", f"0 {2**63 - 1}"),
    ("126 hashes", None, f"{HASH}\n", f"{HASH}\n" * 125),
    ("127 hashes", "at most 126 hashes", f"{HASH}\n", f"{HASH}\n" * 126),
    ("an empty range", "not a range", "74894", "73894"),
    ("a range that ends before it starts", "not a range", "74894", "73893"),
    ("one number", "want a line of range", " 74894", ""),
    ("three numbers", "want a line of range", "74894", "74894 1"),
    ("a leading zero in the first number", "number", "73894", "073894"),
    ("an index", "want a line of range", "range 73894 74894", "index 73894"),
    ("extra data", "want a line of range", "range 7", "extra QUJD\nrange 7"),
    (
        "the first line of the other format",
        "first line",
        "witnessed-ledger/range-proof@v1",
        "c2sp.org/tlog-proof@v1",
    ),
    ("no checkpoint", "empty line", HEAD, ""),
)

TILE_PATH_FAULTS: tuple[Fault, ...] = (
    ("the first tile", None, "x001/x234/067", "000"),
    ("a partial tile", None, "067", "067.p/12"),
    ("a partial tile of 255", None, "067", "067.p/255"),
    ("an entry bundle", None, "tile/0", "tile/entries"),
    ("a partial entry bundle", None, "tile/0/x001/x234/067", "tile/entries/067.p/1"),
    ("the highest tile there is", None, "0/x001/x234/067", "7/000.p/127"),
    ("the last tile there is", None, "x001/x234/067", "x036/x028/x797/x018/x963/966"),
    (
        "the last tile there is, and full",
        "large enough",
        "x001/x234/067",
        "x036/x028/x797/x018/x963/967",
    ),
    ("a tile higher than any tree", "large enough", "0/x001/x234/067", "7/000.p/128"),
    ("a tile of level 8", "large enough", "0/x001/x234/067", "8/000.p/1"),
    ("a tile of level 63", "large enough", "0/x001/x234/067", "63/000.p/1"),
    ("a level of 64", "large enough", "0/x001/x234/067", "64/000.p/1"),
    ("a level of three digits", "not the path", "tile/0", "tile/100"),
    ("a level with a leading zero", "not the path", "tile/0", "tile/00"),
    ("a level with a plus", "not the path", "tile/0", "tile/+1"),
    ("a level in Arabic digits", "not the path", "tile/0", "tile/٣"),
    ("no level", "not the path", "tile/0/", "tile/"),
    ("a slash before it", "not the path", "tile/0", "/tile/0"),
    ("a slash after it", "not the path", "067", "067/"),
    ("a newline after it", "not the path", "067", "067\n"),
    ("a leading group of zeros", "not the path", "x001", "x000/x001"),
    ("a group of two digits", "not the path", "x001", "x01"),
    ("a group of four digits", "not the path", "x001", "x0001"),
    ("a group without an x", "not the path", "x001", "001"),
    ("a last group with an x", "not the path", "067", "x067"),
    ("a group in Arabic digits", "not the path", "067", "٠٦٧"),
    ("an index of 100 digits", "not the path", "x001", "x001/" * 30 + "x001"),
    ("a width of 0", "not the path", "067", "067.p/0"),
    ("a width with a leading zero", "not the path", "067", "067.p/012"),
    ("a width of 256, which is written without", "not the path", "067", "067.p/256"),
    ("a width of 257", "not the path", "067", "067.p/257"),
    ("no width", "not the path", "067", "067.p/"),
    ("two dots", "not the path", "x001", ".."),
)


LOG = str(Signer.generate("example.com/audit", seed=bytes(32)).verifier)
W1, W2, W3, W4, W5 = (
    str(
        CosignatureSigner.generate(
            f"witness.example/w{number}", algorithm=ED25519_COSIGNATURE, seed=bytes([number]) * 32
        ).verifier
    )
    for number in range(1, 6)
)
MLDSA44 = str(
    CosignatureSigner.generate(
        "example.com/audit", algorithm=MLDSA44_COSIGNATURE, seed=bytes(32)
    ).verifier
)

POLICY = f"""# Two of three, and a fourth.

log {LOG} https://log.example/
witness w1 {W1}
witness w2 {W2} https://witness.example/w2/
witness w3 {W3}
witness w4 {W4}
group two 2 w1 w2 w3
group both all two w4
quorum both
"""

POLICY_FAULTS: tuple[Fault, ...] = (
    ("no quorum asked", None, "quorum both", "quorum none"),
    ("a quorum of one witness", None, "quorum both", "quorum w3"),
    ("no log", None, f"log {LOG} https://log.example/\n", ""),
    ("any", None, "two 2", "two any"),
    ("tabs and spaces", None, "group two 2", " \tgroup\ttwo  2"),
    ("spaces at the end", None, "quorum both", "quorum both \t"),
    ("a line of spaces", None, "# Two", " \t\n# Two"),
    ("a comment after spaces", None, "# Two", " \t# Two"),
    ("a comment in octets that are not UTF-8", None, "Two", "\xff\xfe"),
    (
        "names in octets that are not UTF-8",
        None,
        "two 2 w1 w2 w3\ngroup both all two",
        "\xff 2 w1 w2 w3\ngroup both all \xff",
    ),
    ("an ML-DSA-44 log", None, f"log {LOG}", f"log {MLDSA44}"),
    ("an ML-DSA-44 witness", None, f"w4 {W4}", f"w4 {MLDSA44}"),
    (
        "a key of a log and a witness",
        None,
        f"log {LOG} https://log.example/\nwitness w1 {W1}",
        f"log {MLDSA44}\nwitness w1 {MLDSA44}",
    ),
    ("a number sign within a line", "wrong number of words", "quorum both", "quorum both # all"),
    ("no quorum line", "no quorum line", "quorum both\n", ""),
    ("two quorum lines", "one quorum line", "quorum both", "quorum both\nquorum both"),
    ("a quorum that is not defined", "not defined", "quorum both", "quorum all-of-them"),
    (
        "a quorum that is defined later",
        "line 9 .*not defined",
        "group both all two w4\nquorum both",
        "quorum both\ngroup both all two w4",
    ),
    ("two quorums in one line", "wrong number of words", "quorum both", "quorum two both"),
    ("a quorum without a name", "wrong number of words", "quorum both", "quorum"),
    ("a member that is not defined", "line 8 .*w9 is not defined", "w1 w2 w3", "w1 w2 w9"),
    ("a member that is defined later", "both is not defined", "w1 w2 w3", "w1 w2 both"),
    ("a group in itself", "two is not defined", "w1 w2 w3", "w1 w2 two"),
    ("the member none", "none is not defined", "w1 w2 w3", "w1 w2 none"),
    ("a member twice in a group", "w1 is a member already", "w1 w2 w3", "w1 w1 w3"),
    ("a member of two groups", "w1 is a member already", "two w4", "two w1"),
    ("a group without members", "wrong number of words", "two 2 w1 w2 w3", "two 2"),
    ("a threshold of 0", "can't need 0", "two 2", "two 0"),
    ("a threshold of 4 in 3", "can't need 4", "two 2", "two 4"),
    ("a threshold with a leading zero", "not a decimal number", "two 2", "two 02"),
    ("a threshold in capitals", "not a decimal number", "two 2", "two ANY"),
    ("a witness called none", "nothing may be called none", "witness w4", "witness none"),
    ("a group called none", "nothing may be called none", "group both", "group none"),
    ("two witnesses of one name", "w1 is defined twice", "witness w4", "witness w1"),
    ("a group named as a witness", "w4 is defined twice", "group both", "group w4"),
    ("one key under two names", "public key of a line above", f"w4 {W4}", f"w4 {W1}"),
    ("a log twice", "public key of a line above", f"log {LOG} ", f"log {LOG}\nlog {LOG} "),
    ("a log with a witness's key", "key for witnesses", f"log {LOG}", f"log {W5}"),
    ("a witness with a log's key", "key for logs", f"w4 {W4}", f"w4 {LOG}"),
    ("a key that is none", "line 4 .*not a verifier key", W1, "w1"),
    ("a witness without a key", "wrong number of words", f"w4 {W4}", "w4"),
    (
        "two addresses",
        "wrong number of words",
        "https://log.example/",
        "https://log.example/ https://b/",
    ),
    ("an unknown keyword", "unknown keyword", "quorum both", "quota both"),
    ("a keyword in capitals", "unknown keyword", "quorum both", "Quorum both"),
    ("CR and LF", "octet 0d", "quorum both\n", "quorum both\r\n"),
    ("a NUL in a comment", "octet 00", "Two", "\0"),
    ("a vertical tab", "octet 0b", "group two", "group\x0btwo"),
    ("a DEL", "octet 7f", "Two", "\x7f"),
    ("no newline at the end", "end with a newline", "quorum both\n", "quorum both"),
)
