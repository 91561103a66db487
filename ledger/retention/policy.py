"""The retention policy of a ledger: `DIR/retention.toml`. Without one nothing is ever pruned.

    version = 1
    approved_by = "records committee"
    approved_on = "2026-11-01"
    minimum_age_days = 400
    minimum_entries = 100000
    archives = ["frankfurt"]
    mirrors = ["paris"]

An entry may go when it is older than the age, and when so many newer ones are there. The age counts
from the receipt of an entry, by the ledger's own clock: an event may claim any time.

Source: c2sp.org/tlog-tiles, "Retention Policies": without a policy a log is not pruned.
"""

import hashlib
from datetime import date
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ledger.runtime.validation import explain_invalid
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.toml import parse_toml

VERSION: Final = 1
DAYS_MAX: Final = 36_500
ENTRIES_MAX: Final = 1 << 53
NAMES_MAX: Final = 16
TEXT_CHARS_MAX: Final = 500
POLICY_BYTES_MAX: Final = 1 << 16


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of the file. The last annotation of each field is its help text."""

    version: Annotated[int, "The version of this format: 1."]
    approved_by: Annotated[
        str, Meta(min_length=1, max_length=TEXT_CHARS_MAX), "The person or body that decided this."
    ]
    approved_on: Annotated[date, 'When they did: a date in quotes, "2026-11-01".']
    reason: Annotated[
        str, Meta(max_length=TEXT_CHARS_MAX), "The rule or the contract behind it."
    ] = ""
    minimum_age_days: Annotated[
        float,
        Meta(ge=0, le=DAYS_MAX),
        "Days for which an entry is kept at least, counted from its receipt.",
    ]
    minimum_entries: Annotated[
        int, Meta(ge=0, le=ENTRIES_MAX), "How many of the newest entries are kept at least."
    ] = 0
    archives: Annotated[
        tuple[str, ...],
        Meta(max_length=NAMES_MAX),
        "Archives of archive.toml that must hold what goes.",
    ] = ()
    mirrors: Annotated[
        tuple[str, ...],
        Meta(max_length=NAMES_MAX),
        "Witnesses of DIR/policy that are mirrors, and must have cosigned a head with what goes.",
    ] = ()

    def check(self) -> None:
        """Raises: MalformedError for values that don't go together."""
        if self.version != VERSION:
            raise MalformedError(f"version: this version reads {VERSION}, got {self.version}")
        if not self.minimum_age_days and not self.minimum_entries:
            raise MalformedError(
                "minimum_age_days, minimum_entries: one of them must be more than 0, or every "
                "entry could go"
            )


def parse_retention(data: bytes, name: str) -> RetentionPolicy:
    """The policy in a file. Raises: MalformedError naming the key and its limit."""
    if len(data) > POLICY_BYTES_MAX:
        raise MalformedError(f"{name} has {len(data)} bytes, at most {POLICY_BYTES_MAX} are read")
    try:
        table = parse_toml(data.decode())
        policy = msgspec.convert(table, RetentionPolicy)
        policy.check()
    except msgspec.ValidationError as error:
        raise MalformedError(f"{name}: {explain_invalid(error, RetentionPolicy)}") from None
    except ValueError as error:  # tomllib's, Unicode's and our own
        raise MalformedError(f"{name}: {error}") from None
    return policy


def read_retention(path: Path) -> tuple[RetentionPolicy, str]:
    """The policy of a ledger, and the SHA-256 of its file in hex.

    Raises: UnavailableError when there is none, MalformedError, OSError.
    """
    try:
        data = read_limited(path, POLICY_BYTES_MAX)
    except FileNotFoundError:
        raise UnavailableError(
            f"there is no {path}: without a written policy no entry is pruned; docs/retention.md "
            "shows one"
        ) from None
    return parse_retention(data, str(path)), hashlib.sha256(data).hexdigest()
