"""Lists of logs: what is read, what is left out and why, and what is no list."""

import pytest

from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE
from ledger_core.tlog.log_list import LIST_BYTES_MAX, ListedLog, parse_log_list
from ledger_core.tlog.note import Signer

FIRST = str(Signer.generate("example.com/log", seed=b"1" * 32).verifier)
SECOND = str(Signer.generate("example.com/other", seed=b"2" * 32).verifier)
QUANTUM = str(
    CosignatureSigner.generate(
        "example.com/quantum", algorithm=MLDSA44_COSIGNATURE, seed=b"3" * 32
    ).verifier
)
WITNESS = str(
    CosignatureSigner.generate(
        "example.com/w1", algorithm=ED25519_COSIGNATURE, seed=b"4" * 32
    ).verifier
)


def test_a_list_is_read() -> None:
    text = f"""
# A comment, and an empty line before the header
logs/v0

vkey {FIRST}
qpd 86400
contact operator@example.com
unknown word
  # indented

vkey {SECOND}
origin go.sum database tree
qpd 0.5
vkey {QUANTUM}
"""
    found = parse_log_list(text.encode())
    assert found.left_out == ()
    assert found.logs == (
        ListedLog("example.com/log", FIRST, 86_400, "operator@example.com"),
        ListedLog("go.sum database tree", SECOND, 0.5),
        ListedLog("example.com/quantum", QUANTUM),
    )


@pytest.mark.parametrize("text", ["logs/v0", "logs/v0\n", "\n#\nlogs/v0\n"])
def test_a_list_may_be_empty(text: str) -> None:
    assert parse_log_list(text).logs == ()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("vkey junk", "verifier key"),
        ("vkey", "verifier key"),
        (f"vkey {WITNESS}", "is of signature type"),
        (f"vkey {SECOND}\nqpd 0", "qpd"),
        (f"vkey {SECOND}\nqpd 1e9", "qpd"),
        (f"vkey {SECOND}\nqpd nan", "qpd"),
        (f"vkey {SECOND}\nqpd 9999999999", "qpd"),
        (f"vkey {SECOND}\norigin {'o' * 300}", "origin"),
        (f"vkey {SECOND}\norigin example.com/log", "listed twice"),
        (f"vkey {FIRST}", "listed twice"),
    ],
)
def test_a_log_that_can_not_be_read_is_left_out(lines: str, reason: str) -> None:
    found = parse_log_list(f"logs/v0\nvkey {FIRST}\n{lines}\nvkey {QUANTUM}\n")
    assert [log.vkey for log in found.logs] == [FIRST, QUANTUM]
    (said,) = found.left_out
    assert said.startswith("line 3: ")
    assert reason in said


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "this is empty"),
        (b"# only a comment", "this is empty"),
        (b"logs/v1\n", "begins with logs/v0"),
        (f"vkey {FIRST}\n".encode(), "begins with logs/v0"),
        (b"logs/v0\nqpd 24\n", "line 2: expected vkey"),
        (b"logs/v0\n\xff", "UTF-8"),
        (b"logs/v0\n" + b"#" * LIST_BYTES_MAX, "at most"),
    ],
)
def test_what_is_no_list_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        parse_log_list(data)
