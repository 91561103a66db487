"""`ledger policy check`: a policy that is weaker than it looks is named."""

from pathlib import Path

import pytest

from ledger_core.evidence.policies import find_weaknesses
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import parse_policy
from tests.cli.conftest import Command

LOG = Signer.generate("example.com/audit", seed=b"l" * 32).verifier


def witness(name: str, seed: bytes, url: str = "") -> str:
    signer = CosignatureSigner.generate(name, algorithm=ED25519_COSIGNATURE, seed=seed * 32)
    return f"witness {seed.decode()} {signer.verifier} {url}\n"


ONE = witness("one.example/w", b"a", "https://one.example/")
TWO = witness("two.example/w", b"b", "https://two.example/")
GROUP = "group both 2 a b\nquorum both\n"


def test_a_sound_policy_has_no_weakness() -> None:
    assert list(find_weaknesses(parse_policy(f"log {LOG}\n{ONE}{TWO}{GROUP}".encode()))) == []


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (f"{ONE}{TWO}{GROUP}", "no log line"),
        (f"log {LOG}\nquorum none\n", "quorum none"),
        (f"log {LOG}\n{witness('w.example', b'l')}quorum l\n", "the log's own key"),
        (f"log {LOG}\n{ONE}{witness('two.example', b'b', 'https://one.example/')}{GROUP}", "URL"),
        (f"log {LOG}\n{ONE}{witness('x.example', b'b', 'https://one.example/b')}{GROUP}", "host"),
        (f"log {LOG}\n{ONE}{witness('one.example/w', b'b')}{GROUP}", "key name"),
    ],
)
def test_each_weakness_is_named(policy: str, said: str) -> None:
    (found,) = find_weaknesses(parse_policy(policy.encode()))
    assert said in found


def test_an_address_of_a_witness_that_is_none_has_no_host() -> None:
    others = [witness("two.example", b"b", "http://["), witness("x.example", b"c", "http://a]b")]
    text = f"log {LOG}\n{ONE}{''.join(others)}group some 2 a b c\nquorum some\n"
    assert list(find_weaknesses(parse_policy(text.encode()))) == []


def test_the_command_exits_with_1_and_names_them(command: Command, tmp_path: Path) -> None:
    (tmp_path / "weak").write_text(f"log {LOG}\nquorum none\n")
    done = command("policy", "check", "weak")
    assert done.returncode == 1
    assert "quorum none" in done.stdout
    (tmp_path / "sound").write_text(f"log {LOG}\n{ONE}{TWO}{GROUP}")
    done = command("policy", "check", "sound")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "sound has none of the known weaknesses\n"
