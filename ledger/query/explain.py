"""Shows a plan as text with the number of entries at each step: `ledger query --explain`."""

from dataclasses import dataclass

from ledger.query import plan
from ledger.query.executor import QueryScope
from ledger.query.plan import Node


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a plan, and how many entries must match it and may match it."""

    depth: int
    text: str
    must: int
    may: int

    def __str__(self) -> str:
        found = f"{self.must:,}" if self.must == self.may else f"{self.must:,} to {self.may:,}"
        return f"{found:>20}  {'  ' * self.depth}{self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A plan, outermost step first; each step was run by itself over the whole span."""

    query: str
    tree_size: int
    span: plan.Span
    sealed_segments: int
    segments: int
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        head = (
            f"query     {self.query or 'every event'}\n"
            f"entries   [{self.span.start}, {self.span.end}) of {self.tree_size}\n"
            f"segments  {self.segments}, of which {self.sealed_segments} are sealed\n"
        )
        return head + "\n".join(map(str, self.steps))


def explain(scope: QueryScope, *, query: str) -> Explanation:
    """Explain the plan of a scope. Cost: that of running each of its steps."""
    return Explanation(
        query=query,
        tree_size=scope.tree_size,
        span=scope.span,
        sealed_segments=scope.sealed_segments,
        segments=-(-scope.tree_size // scope.segment_entries),
        steps=tuple(_steps(scope, scope.node, 0)),
    )


def _steps(scope: QueryScope, node: Node, depth: int) -> list[Step]:
    must = may = 0
    for segments in scope.windows("oldest"):
        with scope.window(segments) as window:
            bounds = window.evaluate(node)
        within = window.span(scope.span.start, scope.span.end)
        must += bounds.must.intersection_cardinality(within)
        may += bounds.may.intersection_cardinality(within)
    parts: tuple[Node, ...] = ()
    match node:
        case plan.Intersection(parts) | plan.Union(parts):
            pass
        case plan.Complement(part):
            parts = (part,)
    inner = [step for part in parts for step in _steps(scope, part, depth + 1)]
    return [Step(depth, _text(node), must, may), *inner]


def _text(node: Node) -> str:
    match node:
        case plan.Lookup(must, hints):
            read = [f"read {read}" for read in must]
            return "; ".join([*read, *(f"read the rows of {read}" for read in hints)])
        case plan.TimeRange(start, end, across):
            return f"event time from {start} to {end}: {_text(across)}"
        case plan.Span(start, end):
            return f"index from {start} to {end}"
        case plan.Entries(indices):
            return f"{len(indices)} entries by their ids"
        case plan.Unknown():
            return "read every row"
        case plan.Intersection():
            return "all of"
        case plan.Union():
            return "any of"
        case plan.Complement():
            return "not"
