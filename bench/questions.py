"""The twenty questions that responders ask, each in our language and as a condition in SQL.

Names in braces stand for the values of `_values`. In SQL, `[words]` is a search in the text and
`{address}` an address, which every database writes in its own way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Literal

from bench.varied import START_UNIX_US
from ledger_core.event.times import format_time
from ledger_core.query.order import Order

VALUES = 8
DAY_US = 86_400_000_000
_TYPES = ("record", "file", "invoice", "user")
_PREFIXES = ("login", "record", "payment", "iam", "user", "db", "file", "api_key")
_COMMON = ("record.viewed", "record.updated", "record.created", "record.exported")
_TENANTS = ("t_000", "t_001", "t_005", "t_020", "t_050", "t_090", "t_140", "t_190")
_SERVICES = ("api", "admin-web", "billing", "reports", "worker", "mobile-gateway", "api", "billing")
_WORDS = ("okafor", "jensen", "tanaka", "silva", "legal", "quarterly", "rollback", "finance")

Want = Literal["page", "count", "histogram", "facets"]


@dataclass(frozen=True, slots=True)
class Case:
    """One question with its eight values; `offset` rows lie before the page."""

    name: str
    query_template: str
    sql_template: str
    values: Sequence[Mapping[str, str]]
    want: Want = "page"
    offset: int = 0
    order: Order = "newest"

    def query(self, value: int) -> str:
        """The question in our language."""
        return self.query_template.format_map(self.values[value])

    def sql(self, value: int) -> str:
        """The question as a condition in SQL."""
        return self.sql_template.format_map(self.values[value])


# Name, query, SQL.
_PAGES = (
    ("actor", "actor:{actor}", "actor = '{actor}'"),
    ("rare actor", "actor:{rare}", "actor = '{rare}'"),
    ("actor and action", "actor:{actor} action:record.deleted",
     "actor = '{actor}' AND action = 'record.deleted'"),
    ("rare target", "target:{target}", "target = '{target}'"),
    ("target type and outcome", "target.type:{type} outcome:denied",
     "target_type = '{type}' AND outcome = 'denied'"),
    ("tenant and service", "tenant:{tenant} service:{service}",
     "tenant = '{tenant}' AND service = '{service}'"),
    ("service and outcome, common", "service:{service} outcome:success",
     "service = '{service}' AND outcome = 'success'"),
    ("outcome and action in a day", "outcome:failure action:login.failed time:{day}",
     "outcome = 'failure' AND action = 'login.failed' AND {day_sql}"),
    ("action prefix and failure", "action:{prefix}.* outcome:failure",
     "action LIKE '{prefix}.%' AND outcome = 'failure'"),
    ("/24 and failure in 30 days", "source:{net24} outcome:failure time:{month}",
     "{net24_sql} AND outcome = 'failure' AND {month_sql}"),
    ("/20 and failure, all time", "source:{net20} outcome:failure",
     "{net20_sql} AND outcome = 'failure'"),
    ("a bare word", "{word}", "[{word}]"),
    ("two words and an actor type", "{reason} access actor.type:user",
     "[{reason} access] AND actor_type = 'user'"),
    ("NOT, within a tenant", "tenant:{tenant} NOT actor.type:user",
     "tenant = '{tenant}' AND NOT actor_type = 'user'"),
    ("a session or a request", "session:{session} OR request:{request}",
     "(session = '{session}' OR request = '{request}')"),
    ("the last hours of a day", "time:{hours}", "{hours_sql}"),
)  # fmt: skip
_IN_A_MONTH = ("outcome:failure time:{month}", "outcome = 'failure' AND {month_sql}")


def make_cases(samples: Sequence[dict[str, Any]]) -> list[Case]:
    """The twenty questions. `samples`: events of the log, one for each value."""
    values = [_values(value, samples) for value in range(VALUES)]
    return [
        *(Case(*page, values) for page in _PAGES),
        Case(
            "count alone",
            "outcome:failure NOT action:{prefix}.*",
            "outcome = 'failure' AND NOT action LIKE '{prefix}.%'",
            values,
            want="count",
        ),
        Case("histogram over a month", *_IN_A_MONTH, values, want="histogram"),
        Case("four facets over a month", *_IN_A_MONTH, values, want="facets"),
        Case(
            "page 100 of a large answer",
            "action:{common} outcome:success",
            "action = '{common}' AND outcome = 'success'",
            values,
            offset=9900,
        ),
    ]


def make_time_cases(samples: Sequence[dict[str, Any]]) -> list[Case]:
    """Questions whose first page is asked in the order of time."""
    values = [_values(value, samples) for value in range(VALUES)]
    asked: tuple[tuple[str, str, Order], ...] = (
        ("everything, newest", "", "time-newest"),
        ("everything, oldest", "", "time"),
        ("an actor, newest", "actor:{actor}", "time-newest"),
        ("a service's successes, newest", "service:{service} outcome:success", "time-newest"),
        ("failures of a month, oldest", _IN_A_MONTH[0], "time"),
    )
    return [Case(name, query, "", values, order=order) for name, query, order in asked]


def _values(value: int, samples: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The names in the templates, for the question's value of this number."""
    found = {
        "actor": f"u_{value + 1:05d}",
        "rare": f"u_{30_001 + 7 * value:05d}",
        "target": samples[value]["targets"][0]["id"],
        "session": samples[value]["actor"]["session"],
        "request": samples[-value]["context"]["request_id"],
        "type": _TYPES[value % 4],
        "tenant": _TENANTS[value],
        "service": _SERVICES[value],
        "prefix": _PREFIXES[value],
        "common": _COMMON[value % 4],
        "word": _WORDS[value],
        "reason": _WORDS[4 + value % 4],
    }
    for bits in (20, 24):
        network = ip_network(f"198.51.{17 * value}.0/{bits}", strict=False)
        low, high = network.network_address, network.broadcast_address
        found |= {
            f"net{bits}": str(network),
            f"net{bits}_sql": f"ip BETWEEN {{{low}}} AND {{{high}}}",
        }
    evening = START_UNIX_US + (43 * value + 9) * DAY_US + 79_500_000_000
    for name, start, end, chars in (
        ("day", *_days(30 * value + 20, 1), 10),
        ("month", *_days(30 * value + 40, 30), 10),
        ("hours", evening, evening + 5_400_000_000, None),
    ):
        found[name] = f"{format_time(start)[:chars]}..{format_time(end - 1)[:chars]}"
        found[f"{name}_sql"] = f"time_us >= {start} AND time_us < {end}"
    return found


def _days(first: int, count: int) -> tuple[int, int]:
    """The start and end of some days of the year."""
    start = START_UNIX_US + first * DAY_US
    return start, start + count * DAY_US
