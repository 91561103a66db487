"""The policy of a ledger, as its folder has it."""

from typing import NamedTuple

from ledger.log.public_policy import public_policy
from ledger.service.data_dir import DirectoryPaths
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.policy import Policy, parse_policy


class PolicyFile(NamedTuple):
    """A policy, and its text as others may read it."""

    policy: Policy
    public_text: str


def read_policy(paths: DirectoryPaths) -> PolicyFile:
    """Read the policy. Raises: UnavailableError when there is none, MalformedError."""
    try:
        text = paths.policy.read_bytes()
    except FileNotFoundError:
        raise UnavailableError(f"there is no policy at {paths.policy}") from None
    return PolicyFile(parse_policy(text), public_policy(text.decode(errors="replace")))
