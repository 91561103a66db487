"""Without the extra `ml-dsa`: everything else works, and a key that needs it is refused aloud."""

import subprocess
import sys
from collections.abc import Sequence

from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE
from ledger_core.tlog.note import Note, Signer, format_note

BLOCKER = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cryptography":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())

from ledger_core.tlog.cosignature import CosignatureSigner, parse_verifier, self_test
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.keys import MLDSA44_COSIGNATURE, SignerKey, VerifierKey
from ledger_core.tlog.policy import parse_policy

def refused(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except UnavailableError as error:
        assert "pip install 'witnessed-ledger-client[ml-dsa]'" in str(error), error
        return str(error)
    raise AssertionError(f"{function} took an ML-DSA-44 key")
"""

SIGNER = Signer.generate("example.com/log", seed=bytes(32))
ED25519 = CosignatureSigner.generate("w/ed", algorithm=ED25519_COSIGNATURE, seed=bytes(32))
MLDSA44 = CosignatureSigner.generate("w/ml", algorithm=MLDSA44_COSIGNATURE, seed=bytes(32))
TEXT = "example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
NOTE = format_note(
    Note(
        TEXT,
        (
            SIGNER.sign(TEXT),
            ED25519.sign(TEXT, time_unix_s=7),
            MLDSA44.sign(TEXT, time_unix_s=7),
        ),
    )
)


def policy(witnesses: Sequence[CosignatureSigner], quorum: str) -> bytes:
    lines = [f"witness w{number} {by.verifier}" for number, by in enumerate(witnesses)]
    return "\n".join((f"log {SIGNER.verifier}", *lines, *quorum.split("; "), "")).encode()


def run(script: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BLOCKER + script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_every_module_of_the_core_is_imported_without_it() -> None:
    run("""
import ledger_core
for module in pkgutil.walk_packages(ledger_core.__path__, "ledger_core."):
    importlib.import_module(module.name)
assert not any(name.startswith("cryptography") for name in sys.modules)
""")


def test_a_key_is_refused_with_what_to_install() -> None:
    run(f"""
vkey, skey = {str(MLDSA44.verifier)!r}, {MLDSA44.encode()!r}
refused(VerifierKey.parse, vkey)
refused(parse_verifier, vkey)
refused(SignerKey.parse, skey)
refused(CosignatureSigner.generate, "w", algorithm=MLDSA44_COSIGNATURE, seed=bytes(32))
refused(self_test)
""")


def test_a_policy_is_refused_even_where_its_quorum_could_do_without_the_key() -> None:
    policies = [
        (policy([MLDSA44], "quorum w0"), 2),
        (policy([ED25519, MLDSA44], "group any-of 1 w0 w1; quorum any-of"), 3),
        (policy([ED25519, MLDSA44], "quorum w0"), 3),
        (policy([MLDSA44], "quorum none"), 2),
        (f"log {MLDSA44.verifier}\nquorum none\n".encode(), 1),
    ]
    run(f"""
for policy, line in {policies!r}:
    assert refused(parse_policy, policy).startswith(f"line {{line}} of the policy")
""")


def test_a_note_with_such_a_signature_meets_a_policy_that_does_not_name_its_key() -> None:
    run(f"""
head = parse_policy({policy([ED25519], "quorum w0")!r}).check({NOTE!r})
assert head.cosignatures == (("w0", 7),)
""")
