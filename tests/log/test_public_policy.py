"""The policy as others read it: the same keys and quorum, no credentials."""

import pytest

from ledger.log.public_policy import public_policy, public_url
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import Policy, parse_policy

LOG = Signer.generate("example.com/audit", seed=bytes(32)).verifier
WITNESS = CosignatureSigner.generate(
    "https://u:x@w.example/?k", algorithm=ED25519_COSIGNATURE, seed=bytes(32)
).verifier


def meaning(policy: Policy) -> object:
    """A policy without its addresses."""
    witnesses = [(each.name, str(each.verifier)) for each in policy.witnesses]
    logs = [str(each.verifier) for each in policy.logs]
    return logs, witnesses, policy.groups, policy.quorum


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://w.example/w1/", "https://w.example/w1/"),
        ("https://user:word@w.example:8/w1/?k=KEY", "https://w.example:8/w1/"),
        ("https://user:w@rd@w.example?k=KEY#word", "https://w.example"),
        ("https://user:word@w.example/https://x.example/", "https://w.example/https://x.example/"),
        ("https://w.example/@me/", "https://w.example/@me/"),
        ("https://[::1]:8/?k=://KEY", "https://[::1]:8/"),
        ("user:word@w.example/?k=KEY", "w.example/"),
        ("?k=KEY", ""),
    ],
)
def test_an_address_keeps_its_host_and_its_path(url: str, public: str) -> None:
    assert public_url(url) == public
    assert public_url(public) == public


def test_the_public_policy_means_the_same() -> None:
    text = (
        "# see http://user:word@w.example/?k=KEY and ask ops@example.com\n"
        f"\tlog {LOG} https://user:word@log.example/?k=KEY \n"
        f"witness w://a@b?c  {WITNESS}\thttps://user:word@w.example/w1?k=KEY\n"
        "\n  #witness old https://user:word@old.example\n"
        "group g@h?i any w://a@b?c\nquorum g@h?i\n"
    )
    public = public_policy(text)
    for secret in ("user", "word", "KEY"):
        assert secret not in public
    assert "ask ops@example.com" in public
    before, after = parse_policy(text.encode()), parse_policy(public.encode())
    assert [each.url for each in after.witnesses] == ["https://w.example/w1"]
    assert [each.url for each in after.logs] == ["https://log.example/"]
    assert meaning(after) == meaning(before)
    assert public.count("\n") == text.count("\n")


def test_a_policy_without_credentials_stays_the_same() -> None:
    text = f"log {LOG} https://log.example/\nwitness w {WITNESS} https://w.example/\nquorum w\n"
    assert public_policy(text) == text
