"""Judges policies: what makes one weaker than it looks, and whether one is weaker than another.

`ledger policy check` and `ledger doctor` name the weaknesses of a policy. A verifier of evidence
compares the policy in a bundle with the one that its reader trusts.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import combinations
from typing import Final
from urllib.parse import urlsplit

from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.policy import Policy, PolicyWitness, parse_policy

WITNESSES_COMPARED_MAX: Final = 10
"""All sets of so many witnesses are compared: a thousand."""


def find_weaknesses(policy: Policy) -> Iterator[str]:
    """Each reason for which fewer parties than it names could make a false head pass."""
    if not policy.logs:
        yield "no log line: no checkpoint can meet this policy"
    if policy.quorum is None:
        yield "quorum none: the log alone can show another history to each client"
    keys = {log.verifier.public_key for log in policy.logs}
    for witness in policy.witnesses:
        if witness.verifier.public_key in keys:
            yield f"witness {witness.name} has the log's own key, so the log cosigns itself"
    for one, other in combinations(policy.witnesses, 2):
        for what, of in _SHARED:
            if (shared := of(one)) is not None and shared == of(other):
                yield f"witnesses {one.name} and {other.name} have one {what} and may be one party"
                break


def compare_policies(inside: bytes, trusted: Policy) -> Iterator[str]:
    """Name how the policy inside a bundle differs for the worse. It is never used."""
    try:
        policy = parse_policy(inside)
    except (MalformedError, UnavailableError) as error:
        yield f"the policy inside can't be read: {error}"
        return
    keys = {log.verifier.public_key for log in trusted.logs}
    own = [log.verifier.public_key for log in policy.logs]
    if not keys.intersection(own):
        yield "the policy inside names none of your policy's log keys"
    elif not keys.issuperset(own):
        yield (
            "the policy inside trusts a log key that yours does not; after a rotation of the log's "
            "key, yours can have both"
        )
    if trusted.quorum is None:
        return
    if policy.quorum is None:
        yield "the policy inside is weaker than yours: it asks for no witness"
        return
    if len(policy.witnesses) > WITNESSES_COMPARED_MAX:
        yield "the policy inside has too many witnesses to compare it with yours"
        return
    if (names := _weaker_set(policy, trusted)) is not None:
        yield f"the policy inside is weaker than yours: {' and '.join(names)} alone meet it"


def _weaker_set(policy: Policy, trusted: Policy) -> list[str] | None:
    """The fewest witnesses that meet a policy and not the trusted one."""
    for count in range(len(policy.witnesses) + 1):
        for some in combinations(policy.witnesses, count):
            keys = {each.verifier.public_key for each in some}
            theirs = [w.name for w in trusted.witnesses if w.verifier.public_key in keys]
            names = [each.name for each in some]
            if policy.is_quorum(names) and not trusted.is_quorum(theirs):
                return names
    return None


def _host(witness: PolicyWitness) -> str | None:
    with suppress(ValueError):  # A policy may name anything, as `http://[`.
        return urlsplit(witness.url).hostname if witness.url else None
    return None


_SHARED: tuple[tuple[str, Callable[[PolicyWitness], str | None]], ...] = (
    ("URL", lambda witness: witness.url),
    ("host", _host),
    ("key name", lambda witness: witness.verifier.name),
)
"""What two witnesses of one party have in common, the surest sign first."""
