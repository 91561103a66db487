"""The twenty questions that responders ask, each in our language and as a condition in SQL.

In SQL, `[words]` stands for a search in the text and `{address}` for an address, which every
database writes in its own way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Literal

from bench.varied import START_UNIX_US
from ledger_core.event.canonical import format_time

VALUES = 8
DAY_US = 86_400_000_000
_TYPES = ("record", "file", "invoice", "user")
_PREFIXES = ("login", "record", "payment", "iam", "user", "db", "file", "api_key")
_COMMON = ("record.viewed", "record.updated", "record.created", "record.exported")
_TENANTS = ("t_000", "t_001", "t_005", "t_020", "t_050", "t_090", "t_140", "t_190")
_SERVICES = ("api", "admin-web", "billing", "reports", "worker", "mobile-gateway", "api", "billing")
_WORDS = ("okafor", "jensen", "tanaka", "silva", "legal", "quarterly", "rollback", "finance")


@dataclass(frozen=True, slots=True)
class Case:
    """One question, in our language and in SQL, by the number of its value, below 8."""

    name: str
    query: Callable[[int], str]
    sql: Callable[[int], str]
    want: Literal["page", "count", "histogram", "facets"] = "page"
    offset: int = 0


def make_cases(samples: Sequence[dict[str, Any]]) -> list[Case]:
    """The twenty questions. `samples`: events that are there, one for each value."""

    def actor(value: int) -> str:
        return f"u_{value + 1:05d}"

    def rare(value: int) -> str:
        return f"u_{30_001 + 7 * value:05d}"

    def day(value: int) -> tuple[str, str]:
        return _days(30 * value + 20, 1)

    def month(value: int) -> tuple[str, str]:
        return _days(30 * value + 40, 30)

    def network(value: int, bits: int) -> tuple[str, str]:
        net = ip_network(f"198.51.{17 * value}.0/{bits}", strict=False)
        low, high = net.network_address, net.broadcast_address
        return str(net), f"ip BETWEEN {{{low}}} AND {{{high}}}"

    def target(value: int) -> str:
        return str(samples[value]["targets"][0]["id"])

    def session(value: int) -> str:
        return str(samples[value]["actor"]["session"])

    def request(value: int) -> str:
        return str(samples[-value]["context"]["request_id"])

    return [
        Case("actor", lambda v: f"actor:{actor(v)}", lambda v: f"actor = '{actor(v)}'"),
        Case("rare actor", lambda v: f"actor:{rare(v)}", lambda v: f"actor = '{rare(v)}'"),
        Case(
            "actor and action",
            lambda v: f"actor:{actor(v)} action:record.deleted",
            lambda v: f"actor = '{actor(v)}' AND action = 'record.deleted'",
        ),
        Case(
            "rare target",
            lambda v: f"target:{target(v)}",
            lambda v: f"target = '{target(v)}'",
        ),
        Case(
            "target type and outcome",
            lambda v: f"target.type:{_TYPES[v % 4]} outcome:denied",
            lambda v: f"target_type = '{_TYPES[v % 4]}' AND outcome = 'denied'",
        ),
        Case(
            "tenant and service",
            lambda v: f"tenant:{_TENANTS[v]} service:{_SERVICES[v]}",
            lambda v: f"tenant = '{_TENANTS[v]}' AND service = '{_SERVICES[v]}'",
        ),
        Case(
            "service and outcome, common",
            lambda v: f"service:{_SERVICES[v]} outcome:success",
            lambda v: f"service = '{_SERVICES[v]}' AND outcome = 'success'",
        ),
        Case(
            "outcome and action in a day",
            lambda v: f"outcome:failure action:login.failed time:{day(v)[0]}",
            lambda v: f"outcome = 'failure' AND action = 'login.failed' AND {day(v)[1]}",
        ),
        Case(
            "action prefix and failure",
            lambda v: f"action:{_PREFIXES[v]}.* outcome:failure",
            lambda v: f"action LIKE '{_PREFIXES[v]}.%' AND outcome = 'failure'",
        ),
        Case(
            "/24 and failure in 30 days",
            lambda v: f"source:{network(v, 24)[0]} outcome:failure time:{month(v)[0]}",
            lambda v: f"{network(v, 24)[1]} AND outcome = 'failure' AND {month(v)[1]}",
        ),
        Case(
            "/20 and failure, all time",
            lambda v: f"source:{network(v, 20)[0]} outcome:failure",
            lambda v: f"{network(v, 20)[1]} AND outcome = 'failure'",
        ),
        Case("a bare word", lambda v: _WORDS[v], lambda v: f"[{_WORDS[v]}]"),
        Case(
            "two words and an actor type",
            lambda v: f"{_WORDS[4 + v % 4]} access actor.type:user",
            lambda v: f"[{_WORDS[4 + v % 4]} access] AND actor_type = 'user'",
        ),
        Case(
            "NOT, within a tenant",
            lambda v: f"tenant:{_TENANTS[v]} NOT actor.type:user",
            lambda v: f"tenant = '{_TENANTS[v]}' AND NOT actor_type = 'user'",
        ),
        Case(
            "a session or a request",
            lambda v: f"session:{session(v)} OR request:{request(v)}",
            lambda v: f"(session = '{session(v)}' OR request = '{request(v)}')",
        ),
        Case(
            "the last hours of a day",
            lambda v: f"time:{_hours(v)[0]}",
            lambda v: _hours(v)[1],
        ),
        Case(
            "count alone",
            lambda v: f"outcome:failure NOT action:{_PREFIXES[v]}.*",
            lambda v: f"outcome = 'failure' AND NOT action LIKE '{_PREFIXES[v]}.%'",
            want="count",
        ),
        Case(
            "histogram over a month",
            lambda v: f"outcome:failure time:{month(v)[0]}",
            lambda v: f"outcome = 'failure' AND {month(v)[1]}",
            want="histogram",
        ),
        Case(
            "four facets over a month",
            lambda v: f"outcome:failure time:{month(v)[0]}",
            lambda v: f"outcome = 'failure' AND {month(v)[1]}",
            want="facets",
        ),
        Case(
            "page 100 of a large answer",
            lambda v: f"action:{_COMMON[v % 4]} outcome:success",
            lambda v: f"action = '{_COMMON[v % 4]}' AND outcome = 'success'",
            offset=9900,
        ),
    ]


def _days(first: int, count: int) -> tuple[str, str]:
    """Some days of the year, in our language and in SQL."""
    start = START_UNIX_US + first * DAY_US
    end = start + count * DAY_US
    ours = f"{format_time(start)[:10]}..{format_time(end - 1)[:10]}"
    return ours, f"time_us >= {start} AND time_us < {end}"


def _hours(value: int) -> tuple[str, str]:
    start = START_UNIX_US + (43 * value + 9) * DAY_US + 79_500_000_000
    end = start + 5_400_000_000
    return (
        f"{format_time(start)}..{format_time(end - 1)}",
        f"time_us >= {start} AND time_us < {end}",
    )
