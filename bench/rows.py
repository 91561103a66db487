"""One row of the table of results: a name, a figure with its unit, and the target."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A figure. `reach` is the target: the least that meets it, or the most if `at_most`."""

    name: str
    figure: float
    unit: str
    reach: float | None = None
    at_most: bool = False

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.reach is None:
            return None
        return self.figure <= self.reach if self.at_most else self.figure >= self.reach

    def as_json(self) -> dict[str, object]:
        """The row for results.json."""
        return {**asdict(self), "is_met": self.is_met}


def format_table(rows: Sequence[Row]) -> str:
    """A Markdown table like those of docs/benchmarks.md."""
    lines = ["| measured | figure | reach | |", "|---|---:|---:|---|"]
    for row in rows:
        reach = ""
        if row.reach is not None:
            reach = f"{'≤' if row.at_most else '≥'} {_number(row.reach)}"
        verdict = {True: "met", False: "**missed**", None: ""}[row.is_met]
        lines.append(f"| {row.name} | {_number(row.figure)} {row.unit} | {reach} | {verdict} |")
    return "\n".join(lines)


def p50(values: Sequence[float]) -> float:
    """The median."""
    return sorted(values)[len(values) // 2]


def p95(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return sorted(values)[int(len(values) * 0.95)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"
