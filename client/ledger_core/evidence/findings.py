"""The result of checking a bundle of evidence."""

from dataclasses import dataclass, field
from typing import Final

from ledger_core.evidence.layout import Statement
from ledger_core.tlog.policy import VerifiedHead

FINDINGS_MAX: Final = 20


@dataclass(slots=True)
class Findings:
    """The faults of a bundle, and the notes for its reader. Mutable."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_fault(self, name: str, reason: str) -> None:
        """Add a fault of a file, up to FINDINGS_MAX, and then `and more`."""
        _add(self.faults, f"{name}: {reason}")

    def add_note(self, text: str) -> None:
        """Add a remark, with the same limit."""
        _add(self.notes, text)


def _add(texts: list[str], text: str) -> None:
    if len(texts) < FINDINGS_MAX:
        texts.append(text)
    elif len(texts) == FINDINGS_MAX:
        texts.append("and more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Existed:
    """The times before which the events existed, in seconds since 1970, as the quorum states.

    `first_unix_s` is that of the first event, `last_unix_s` of the last. `delay_s_max`: the longest
    time from the receipt of an event, by the log's clock, to the head that shows that it existed;
    None if unknown.
    """

    first_unix_s: int
    last_unix_s: int
    delay_s_max: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedExport:
    """The entry of the log that records the export.

    `head` is the head that proves it, at `index`; without one nothing here is proven, and `missing`
    is the reason that the bundle gives.
    """

    statement: Statement
    token: str
    time: str
    received: str
    case: str | None
    reason: str | None
    tenant: str | None
    index: int | None = None
    head: VerifiedHead | None = None
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A bundle that was verified, except for its `faults`.

    `events` are in the tree of `head`, from the first to the last index of `span`. Each of them
    meets the query, unless `unevaluated` says why that was not tested. `edition` 1 has no
    statement.
    """

    edition: int
    query: str
    head: VerifiedHead
    events: int
    span: tuple[int, int] | None
    unevaluated: str
    existed: Existed | None
    stated: StatedExport | None
    disclosed: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_verified(self) -> bool:
        """Whether there are events and no fault. Without events nothing is proven."""
        return self.events > 0 and not self.faults

    @property
    def are_texts_proven(self) -> bool:
        """Whether the log has signed the hashes of the texts that people read in the bundle."""
        return self.stated is not None and self.stated.head is not None
