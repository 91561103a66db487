"""A plan in words, with what each of its steps finds: `ledger query --explain`."""

from dataclasses import dataclass

from ledger.query.evaluator import WINDOW_SEGMENTS
from ledger.query.executor import QueryScope
from ledger.query.plan import (
    Complement,
    Entries,
    Intersection,
    Lookup,
    Node,
    Span,
    TimeRange,
    Union,
    Unknown,
)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a plan, and the entries for which it is sure to hold, or may."""

    depth: int
    text: str
    sure: int
    maybe: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A plan, outermost step first; each step was run by itself over the whole span."""

    query: str
    tree_size: int
    span: Span
    sealed_segments: int
    segments: int
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        head = (
            f"query     {self.query or 'every event'}\n"
            f"entries   [{self.span.start}, {self.span.end}) of {self.tree_size}\n"
            f"segments  {self.segments}, of which {self.sealed_segments} are sealed\n"
        )
        return head + "\n".join(map(_line, self.steps))


def explain(scope: QueryScope, *, query: str) -> Explanation:
    """Explain the plan of a scope. Cost: that of running each of its steps."""
    sealed = 0 if scope.snapshot is None else len(scope.snapshot.records)
    return Explanation(
        query=query,
        tree_size=scope.tree_size,
        span=scope.span,
        sealed_segments=sealed,
        segments=-(-scope.tree_size // scope.segment_entries),
        steps=tuple(_steps(scope, scope.node, 0)),
    )


def _steps(scope: QueryScope, node: Node, depth: int) -> list[Step]:
    sure = maybe = 0
    for segments in scope.windows("oldest", WINDOW_SEGMENTS):
        with scope.window(segments) as window:
            decided = window.evaluate(node)
        within = window.span(scope.span.start, scope.span.end)
        sure += decided.sure.intersection_cardinality(within)
        maybe += decided.maybe.intersection_cardinality(within)
    steps = [Step(depth, _text(node), sure, maybe)]
    match node:
        case Intersection(parts) | Union(parts):
            for part in parts:
                steps += _steps(scope, part, depth + 1)
        case Complement(part):
            steps += _steps(scope, part, depth + 1)
    return steps


def _text(node: Node) -> str:
    match node:
        case Lookup(sure, hints):
            read = [f"read {read}" for read in sure]
            return "; ".join([*read, *(f"look into the rows of {read}" for read in hints)])
        case TimeRange(start, end, across):
            return f"event time from {start} to {end}: {_text(across)}"
        case Span(start, end):
            return f"index from {start} to {end}"
        case Entries(indices):
            return f"{len(indices)} entries by their ids"
        case Unknown():
            return "look into every row"
        case Intersection():
            return "all of"
        case Union():
            return "any of"
        case Complement():
            return "not"


def _line(step: Step) -> str:
    found = f"{step.sure:,}" if step.sure == step.maybe else f"{step.sure:,} to {step.maybe:,}"
    return f"{found:>20}  {'  ' * step.depth}{step.text}"
