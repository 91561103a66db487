"""The counters of a service, and `/metrics` in the text form of Prometheus.

    ledger_requests_total{route="/v1/events",method="POST",status="200"} 17

A label is the name of a token, a route, a status or a rule: never a value of an event, a query or
a secret. Routes stand as in the table of routes, since a path may hold the id of an actor.

Source: prometheus.io, "Exposition formats", text format 0.0.4.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

import msgspec

METRICS_MEDIA: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metric(NamedTuple):
    """One row of the table: what is counted or measured, and by which labels."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    help: str


METRICS: Final = tuple(
    Metric(name, kind, labels, help_)  # type: ignore[arg-type] # `kind` is one of the two
    for name, kind, labels, help_ in (
        ("requests_total", "counter", ("route", "method", "status"), "Requests answered."),
        ("request_seconds_total", "counter", ("route",), "Seconds until requests were answered."),
        ("request_bytes_total", "counter", ("token",), "Bytes of request bodies."),
        ("response_bytes_total", "counter", ("token",), "Bytes of answers."),
        ("token_requests_total", "counter", ("token",), "Requests by token."),
        ("problems_total", "counter", ("problem",), "Requests refused, by type of problem."),
        ("revoked_token_requests_total", "counter", ("token",), "Requests with a revoked token."),
        ("heads_too_slow_total", "counter", (), "Connections cut with half a request head sent."),
        ("connections_refused_total", "counter", (), "Connections closed as one too many."),
        ("handshakes_failed_total", "counter", (), "TLS handshakes that failed."),
        ("events_logged_total", "counter", ("token",), "New events in the log."),
        ("stored_bytes_total", "counter", ("token",), "Bytes of the leaves of new events."),
        ("events_refused_total", "counter", ("problem",), "Events refused, by type of problem."),
        ("secrets_found_total", "counter", ("rule",), "Events that held a secret, by rule."),
        ("audit_events_lost_total", "counter", (), "Reads and refusals that no event names."),
        ("spans_lost_total", "counter", (), "Spans of traces that no collector took."),
        ("tree_size", "gauge", (), "Entries in the log."),
        ("published_size", "gauge", (), "Entries that the published checkpoint covers."),
        ("minimum_index", "gauge", (), "The first entry that was not pruned."),
        (
            "released_end",
            "gauge",
            (),
            "Entries below this index are in an archive alone, not on this disk; 0: none are.",
        ),
        ("ready", "gauge", (), "1 if the service takes and proves events, else 0."),
        ("warnings", "gauge", (), "Warnings of /readyz."),
        ("map_fill_ratio", "gauge", (), "Part of the log's map that is in use, 0 to 1."),
        ("bytes_in_flight", "gauge", (), "Bytes of bodies and unread answers in memory."),
        ("requests_in_flight", "gauge", (), "Requests that are answered now."),
        ("clock_behind_seconds", "gauge", (), "Seconds that the clock is behind the last entry."),
        ("mirror_lag_entries", "gauge", (), "On a mirror: published entries that it lacks."),
        ("mirror_lag_seconds", "gauge", (), "On a mirror: seconds since it lacked none."),
        ("index_segments_behind", "gauge", (), "Full segments that the index has not sealed."),
        (
            "follower_lag_entries",
            "gauge",
            ("follower",),
            "Entries that a sink, an archive or a mirror has yet to be sent.",
        ),
        ("follower_lag_seconds", "gauge", ("follower",), "Seconds that the oldest waits."),
        (
            "follower_expected_lag_seconds",
            "gauge",
            ("follower",),
            "Seconds that entries may wait by the settings: the interval of an archive.",
        ),
        ("follower_failing", "gauge", ("follower",), "1 while a sink does not get on, else 0."),
        ("follower_dead_letters", "gauge", ("follower",), "Entries that were refused for good."),
    )
)

Gauge = float | Mapping[tuple[str, ...], float]
"""A value, or for a gauge with labels a value for each combination of theirs."""

_PREFIX: Final = "ledger_"

ROWS_MAX: Final = 10_000
"""Combinations of labels of one counter. Who may log in by an identity provider, nobody knows."""
_OTHERS: Final = "(others)"


class Counter(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One counter: its name, the values of its labels, and what it counted since the start."""

    name: str
    labels: tuple[str, ...]
    value: float


class Metrics:
    """The counters of one process, kept in memory since the start. Used on its event loop alone."""

    def __init__(self) -> None:
        self._values: defaultdict[str, defaultdict[tuple[str, ...], float]] = defaultdict(
            lambda: defaultdict(float)
        )

    def add(self, name: str, *labels: str, amount: float = 1) -> None:
        """Add to a counter of the table. Precondition: a value for each of its labels, in order.

        Beyond `ROWS_MAX` all further labels are counted together.
        """
        rows = self._values[name]
        if len(rows) >= ROWS_MAX and labels not in rows:
            labels = (_OTHERS,) * len(labels)
        rows[labels] += amount

    def counters(self) -> list[Counter]:
        """All counters."""
        return [
            Counter(name, labels, value)
            for name, rows in self._values.items()
            for labels, value in rows.items()
        ]


class CounterTotals:
    """The counters of processes that have ended, added up: what was counted never gets less."""

    def __init__(self) -> None:
        self._totals: defaultdict[tuple[str, tuple[str, ...]], float] = defaultdict(float)

    def add(self, counters: Iterable[Counter]) -> None:
        """Add the last known counters of a process."""
        for counter in counters:
            self._totals[counter.name, counter.labels] += counter.value

    def counters(self) -> list[Counter]:
        """All of them."""
        return [Counter(*key, value) for key, value in self._totals.items()]


def render(counters: Iterable[Counter], gauges: Mapping[str, Gauge]) -> bytes:
    """The metrics as text, in the order of the table.

    `counters` are added up: each process has its own. `gauges` has a value for each gauge.
    """
    values: dict[str, dict[tuple[str, ...], float]] = {metric.name: {} for metric in METRICS}
    for counter in counters:
        rows = values.get(counter.name, {})  # A process of another version may count more.
        rows[counter.labels] = rows.get(counter.labels, 0.0) + counter.value
    for metric in METRICS:
        if metric.kind == "gauge":
            value = gauges[metric.name]
            values[metric.name] = dict(value) if isinstance(value, Mapping) else {(): value}
        elif not metric.labels:
            # A counter without labels is shown from its first day on, at 0.
            values[metric.name].setdefault((), 0.0)
    return "".join(_lines(values)).encode()


def _lines(values: Mapping[str, Mapping[tuple[str, ...], float]]) -> Iterator[str]:
    for metric in METRICS:
        name = _PREFIX + metric.name
        yield f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"
        for labels, value in values[metric.name].items():
            pairs = zip(metric.labels, labels, strict=True)
            text = ",".join(f'{label}="{_escape(each)}"' for label, each in pairs)
            yield f"{name}{{{text}}} {value:.17g}\n" if text else f"{name} {value:.17g}\n"


def metric_rows() -> list[tuple[str, str, str, str]]:
    """The table of the documentation."""
    return [
        (f"`{_PREFIX}{metric.name}`", metric.kind, ", ".join(metric.labels), metric.help)
        for metric in METRICS
    ]


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
