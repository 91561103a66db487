"""Shows a plan as text with the number of entries at each step: `ledger query --explain`."""

from ledger.query import plan_nodes as plan
from ledger.query.budget import OverBudgetError
from ledger.query.executor import QueryScope
from ledger.query.plan_nodes import Node


def explain(scope: QueryScope, *, query: str) -> str:
    """The plan of a scope, outermost step first; each step is run by itself over the whole span.

    A step that the time does not suffice for has `or more` behind its numbers.
    """
    head = (
        f"query     {query or 'every event'}",
        f"entries   [{scope.span.start}, {scope.span.end}) of {scope.tree_size}",
        f"segments  {-(-scope.tree_size // scope.segment_entries)}, "
        f"of which {len(scope.sealed)} are sealed",
    )
    return "\n".join((*head, *_steps(scope, scope.node, "")))


def _steps(scope: QueryScope, node: Node, indent: str) -> list[str]:
    """A line for a step and each below it: how many entries must match it to how many may."""
    must = may = 0
    more = ""
    for segments in scope.split(scope.segments, "oldest"):
        try:
            window = scope.window(segments)
            bounds = window.evaluate(node)
        except OverBudgetError:
            more = " or more"
            break
        within = window.span(scope.span.start, scope.span.end)
        must += bounds.must.intersection_cardinality(within)
        may += bounds.may.intersection_cardinality(within)
    parts: tuple[Node, ...] = ()
    match node:
        case plan.Intersection(parts) | plan.Union(parts):
            pass
        case plan.Complement(part):
            parts = (part,)
    found = (f"{must:,}" if must == may else f"{must:,} to {may:,}") + more
    inner = [line for part in parts for line in _steps(scope, part, f"{indent}  ")]
    return [f"{found:>20}  {indent}{_text(node)}", *inner]


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
