"""The tables of `bench.query`: each question for each contender, and the targets."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from bench.rows import Row, p50, p95

RARE: Final = ("rare actor", "rare target", "a session or a request")
TWO_DIMENSIONS: Final = (
    "actor and action",
    "target type and outcome",
    "tenant and service",
    "service and outcome, common",
    "action prefix and failure",
    "NOT, within a tenant",
)
FOUR_FACETS: Final = "four facets over a month"

Results = dict[str, dict[str, dict[str, list[float]]]]
"""Question -> contender -> cold, warm, page -> seconds."""


def format_comparison(results: Results) -> str:
    """A Markdown table, milliseconds: for each contender warm p50 and p95, the page alone, cold."""
    names = list(next(iter(results.values())))
    has_cold = "cold" in next(iter(results.values()))[names[0]]
    kinds = "p50 | p95 | page | cold" if has_cold else "p50 | p95 | page"
    lines = [
        "| question | " + " | ".join(f"{n}: {kinds}" for n in names) + " |",
        "|---|" + "---:|" * ((3 + has_cold) * len(names)),
    ]
    for question, found in results.items():
        cells = []
        for name in names:
            figures = found[name]
            page = _ms(p50(figures["page"])) if "page" in figures else ""
            cells += [_ms(p50(figures["warm"])), _ms(p95(figures["warm"])), page]
            if has_cold:
                cells.append(_ms(p50(figures["cold"])))
        lines.append(f"| {question} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(results: Results) -> list[Row]:
    """The targets of docs/benchmarks.md."""
    ours, *others = next(iter(results.values()))
    two = [name for name in results if name in TWO_DIMENSIONS]
    networks = [name for name in results if name.startswith("/")]
    slowest = {
        name: max(p50(found[name]["warm"]) for found in results.values())
        for name in (ours, *others)
    }
    return [
        Row(
            "two dimensions over everything, the slowest p95, warm",
            max(p95(results[name][ours]["warm"]) for name in two) * 1e3,
            "ms",
            reach=10,
            at_most=True,
        ),
        Row(
            "a network and an outcome, the slowest p95, warm",
            max(p95(results[name][ours]["warm"]) for name in networks) * 1e3,
            "ms",
            reach=50,
            at_most=True,
        ),
        *(
            Row(f"{name}, p50, warm", found * 1e3, "ms", reach=reach, at_most=True)
            for name, found, reach in (
                *((name, p50(results[name][ours]["warm"]), 0.3) for name in RARE),
                ("four facets over a month", p50(results[FOUR_FACETS][ours]["warm"]), 40),
                ("our slowest question", slowest[ours], 60),
            )
        ),
        *(_against_others(results, ours, others, slowest) if others else ()),
    ]


def _against_others(
    results: Results, ours: str, others: Sequence[str], slowest: Mapping[str, float]
) -> list[Row]:
    return [
        Row(
            "geometric mean against the fastest other, page and total",
            _mean_ratio(results, ours, others, "warm"),
            "times",
            reach=5,
        ),
        *(
            Row(f"… against {name}", _mean_ratio(results, ours, [name], "warm"), "times")
            for name in others
        ),
        Row(
            "geometric mean against the fastest other, page alone",
            _mean_ratio(results, ours, others, "page"),
            "times",
            reach=0.5,
        ),
        Row(
            "our slowest against their slowest",
            min(slowest[name] for name in others) / slowest[ours],
            "times",
            reach=10,
        ),
    ]


def _mean_ratio(results: Results, ours: str, others: Sequence[str], kind: str) -> float:
    ratios = [
        min(p50(found[name][kind]) for name in others) / p50(found[ours][kind])
        for found in results.values()
        if kind in found[ours]
    ]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"
