"""The errors that all packages share, by whose fault it is.

    ValueError, TypeError   the caller broke a precondition
    MalformedError          the bytes are not the format
    VerificationError       well-formed, but untrue: a party lies, or something is broken
    UnavailableError        I/O failed; the same call may succeed later

They are never mixed: a proof that doesn't verify is not malformed, and a server that can't be
reached has not lied. Messages are lower case, say got and want, and hold no secret.
"""

from collections.abc import Mapping
from types import MappingProxyType

NO_EVIDENCE: Mapping[str, bytes] = MappingProxyType({})


class MalformedError(ValueError):
    """The bytes are not the format. Nothing was verified, and nothing is known to be false."""


class VerificationError(Exception):
    """A well-formed statement is not true.

    `evidence` is bytes by name that convince a third person: {"old": a signed note, "new": another,
    "proof": text}. It is empty where the message has all that there is.
    """

    def __init__(self, message: str, *, evidence: Mapping[str, bytes] = NO_EVIDENCE) -> None:
        super().__init__(message)
        self.evidence = evidence


class UnavailableError(Exception):
    """A request can't be answered now; it is worth trying again.

    `retry_after_s` is the wait that the other side asked for, None when it named none.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnlistedKeyError(VerificationError):
    """A log has signed with keys alone that the policy does not list, as after a rotation."""
