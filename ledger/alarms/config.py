"""The alarms of a ledger: `DIR/alarms.toml`, a table for each.

    [guessed]
    query = "action:login.failed"
    by = "actor"
    count = 5
    window_s = 900
    then = "action:login.succeeded"

fires when five events of one actor that the first query finds lie within 15 minutes, and one that
the second finds follows within 15 minutes of the last of them.
"""

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from ledger.follow.tables import FollowerConfig, parse_tables
from ledger_client.runtime.files import read_utf8
from ledger_core.query.parser import parse_query
from ledger_core.tlog.errors import MalformedError

KIND: Final = "alarms"
ALARMS_MAX: Final = 256
COUNT_MAX: Final = 10_000
DAY_S: Final = 86_400
SECONDS_MAX: Final = 10 * 366 * DAY_S
FIELDS: Final = frozenset(
    {"actor", "action", "target", "source", "outcome", "tenant", "session", "credential", "service",
     "received.by", "request", "trace", "actor.type", "target.type", "user_agent"}
)  # fmt: skip
"""Fields whose values group or are counted."""

_TIME = r"([01][0-9]|2[0-3]):([0-5][0-9])"
_match_quiet = re.compile(f"{_TIME}-{_TIME}").fullmatch

NETWORK_BITS_MAX: Final = 32


class AlarmConfig(FollowerConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One alarm. The last annotation of each field is its help text."""

    kind: Annotated[
        Literal["events", "gap", "witness"],
        "events: counts what `query` finds. gap: numbers of a recorder that are missing and not "
        "explained within `window_s`. witness: one of the policy that has cosigned no published "
        "head for `window_s`.",
    ] = "events"
    query: Annotated[str, "The events that count, in the query language."] = ""
    count: Annotated[
        int, Meta(ge=1, le=COUNT_MAX), "How many of them, or how many values of `distinct`."
    ] = 1
    window_s: Annotated[
        float, Meta(gt=0, le=31 * DAY_S), "Seconds, by the times of receipt, in which they lie."
    ] = 300.0
    by: Annotated[
        str, "Counts for each value of this field alone; source/24 is a network. Empty: all."
    ] = ""
    distinct: Annotated[str, "Counts the different values of this field, not the events."] = ""
    then: Annotated[
        str, "Fires only when an event that this finds follows within the window, same group."
    ] = ""
    silence_s: Annotated[
        float,
        Meta(ge=0, le=SECONDS_MAX),
        "Fires instead when no event was found for so many seconds; with `by`, none of a value "
        "that had come before. 0: off.",
    ] = 0.0
    repeat_s: Annotated[
        float,
        Meta(ge=0, le=SECONDS_MAX),
        "Seconds after a firing in which the same group does not fire again.",
    ] = 3600.0
    quiet: Annotated[
        tuple[str, ...], "Times of day in UTC, 22:00-06:00, in which it is logged but not told."
    ] = ()
    severity: Annotated[
        Literal["low", "medium", "high"], "low, medium or high; stands in the event."
    ] = "medium"
    summary: Annotated[str, Meta(max_length=500), "What happened; stands in the event."] = ""

    def check(self) -> None:
        """Check what the types don't. Raises: MalformedError naming the key."""
        for times in self.quiet:
            if not _match_quiet(times):
                raise MalformedError(f"quiet: want times such as 22:00-06:00, got {times!a}")
        for key, query in (("query", self.query), ("then", self.then)):
            try:
                parse_query(query)
            except ValueError as error:
                raise MalformedError(f"{key}: {error}") from None
        if self.kind != "events":
            self._check_other_kind()
            return
        if not self.query.strip():
            raise MalformedError("query: empty, which every event meets")
        for key, field in (("by", self.by), ("distinct", self.distinct)):
            if field:
                check_field(field, key)
        if self.silence_s and (self.then or self.distinct or self.count > 1):
            raise MalformedError(
                "silence_s: goes with query and by alone, not with count, distinct or then"
            )

    def _check_other_kind(self) -> None:
        """Refuse the keys of a count."""
        own = AlarmConfig()
        for key in ("query", "count", "by", "distinct", "then", "silence_s"):
            if getattr(self, key) != getattr(own, key):
                raise MalformedError(f"{key}: goes with alarms of kind events alone")

    @property
    def grouped_by(self) -> str:
        """What the group of a firing is a value of; empty for one group."""
        return {"gap": "recorder", "witness": "witness"}.get(self.kind, self.by)

    def is_quiet(self, unix_us: int) -> bool:
        """Whether a time lies within the quiet times."""
        minute = unix_us // 60_000_000 % 1440
        for times in self.quiet:
            match = _match_quiet(times)
            if match is None:
                continue
            hour, first_minute, end_hour, end_minute = map(int, match.groups())
            start, end = hour * 60 + first_minute, end_hour * 60 + end_minute
            if start <= minute < end or (end <= start and not end <= minute < start):
                return True
        return False


def check_field(field: str, key: str) -> tuple[str, int]:
    """The name of a field, and the length of its network, 0 for none. Raises: MalformedError."""
    name, slash, bits = field.partition("/")
    if name not in FIELDS:
        raise MalformedError(f"{key}: want one of {', '.join(sorted(FIELDS))}, got {field!a}")
    if not slash:
        return name, 0
    if name != "source" or not (
        bits.isascii() and bits.isdigit() and 1 <= int(bits) <= NETWORK_BITS_MAX
    ):
        raise MalformedError(f"{key}: a network is source/1 to source/32, got {field!a}")
    return name, int(bits)


def alarms_path(directory: Path) -> Path:
    """The file of the alarms of a ledger."""
    return directory / "alarms.toml"


def read_alarms(directory: Path) -> dict[str, AlarmConfig]:
    """The alarms of a ledger, by name. Raises: MalformedError naming alarm and key, OSError."""
    path = alarms_path(directory)
    if not path.exists():
        return {}
    return parse_alarms(read_utf8(path), str(path))


def parse_alarms(text: str, name: str) -> dict[str, AlarmConfig]:
    """The alarms of a text. Raises: MalformedError naming alarm and key."""
    return parse_tables(text, name, AlarmConfig, what="alarm", most=ALARMS_MAX)


def starter_alarms() -> str:
    """The text of the starter set."""
    return files(__package__).joinpath("starter.toml").read_text(encoding="utf-8")
