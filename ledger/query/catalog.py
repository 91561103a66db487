"""Lists what a query can name: the fields with their frequent values, and the keys of the context.

All of it is counted within the caller's tenant, in the newest events, as many as the time allows:
`counted` says how many. The types of a key are those of its values in a few events.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from heapq import nsmallest
from itertools import islice
from typing import Final

import msgspec

from ledger.query.hints import context_keys
from ledger.query.log_view import EngineView
from ledger_core.query import analyzer
from ledger_core.query.ast import Has
from ledger_core.query.fields import LANGUAGE
from ledger_core.query.value_parser import is_ordered
from ledger_core.search_answers import (
    ContextKeyAnswer,
    Facet,
    FacetValue,
    FieldAnswer,
    FieldsAnswer,
)

CATALOG_TIME_S: Final = 1.0
KEYS_MAX: Final = 200
VALUES_MAX: Final = 10
_CHANGED: Final = ("before", "after")
_ANYWHERE: Final = analyzer.context_prefix("")
_SAMPLED_EVENTS: Final = 20
_VALUED: Final = frozenset({"action", "address", "outcome", "text"})
_DIMENSIONS: Final = tuple(
    field.name for field in LANGUAGE if field.number is not None and field.kind in _VALUED
)


def read_catalog(view: EngineView) -> FieldsAnswer:
    """The fields and the keys of the context that the caller's events have."""
    counter, is_all = view.count_terms((*_DIMENSIONS, "context"))
    facets = {facet.field: facet for facet in counter.facets(is_all=is_all)}
    fields = [
        FieldAnswer(
            name=field.syntax,
            meaning=field.meaning,
            example=field.example,
            ordered=is_ordered(field.name),
            facet=field.is_facet,
            count=sum(_terms(field.name, counter.counts).values())
            if field.name in facets
            else None,
            values=_values(field.name, facets, counter.counts),
        )
        for field in LANGUAGE
    ]
    return FieldsAnswer(
        tree_size=view.engine.tree_size(),
        counted=counter.counted,
        exact=is_all,
        fields=tuple(fields),
        context=tuple(_keys(counter.counts["context"], view)),
    )


def _values(
    name: str, facets: Mapping[str, Facet], counts: Mapping[str, Counter[str]]
) -> tuple[FacetValue, ...]:
    """The frequent values. Those of the context have keys, and are listed there."""
    if name not in facets or name == "context":
        return ()
    if name not in _CHANGED:
        return facets[name].values
    terms = _terms(name, counts).items()
    frequent = nsmallest(VALUES_MAX, terms, key=lambda item: (-item[1], item[0]))
    return tuple(FacetValue(term[len(_ANYWHERE) :], count) for term, count in frequent)


def _terms(name: str, counts: Mapping[str, Counter[str]]) -> Mapping[str, int]:
    """The terms of a field. Each value of a change is there with and without its path."""
    if name not in _CHANGED:
        return counts[name]
    return {term: count for term, count in counts[name].items() if term.startswith(_ANYWHERE)}


def _keys(terms: Counter[str], view: EngineView) -> Iterator[ContextKeyAnswer]:
    values: dict[str, list[FacetValue]] = {}
    for term, count in sorted(terms.items(), key=lambda item: (-item[1], item[0])):
        path = analyzer.path_of(term)
        some = values.setdefault(path, []) if path is not None else []
        if path is not None and len(some) < VALUES_MAX:
            some.append(FacetValue(term[len(analyzer.context_prefix(path)) :], count))
    for path, count in islice(context_keys(terms).most_common(), KEYS_MAX):
        yield ContextKeyAnswer(
            path=path, types=_types(path, view), count=count, values=tuple(values[path])
        )


def _types(path: str, view: EngineView) -> tuple[str, ...]:
    """The types of the values at a path in the newest events that have it."""
    answer = view.search(Has("context", path), limit=_SAMPLED_EVENTS, is_counted=False)
    leaves = [msgspec.json.decode(row.leaf) for row in answer.rows] if answer else []
    return tuple(
        sorted(
            {
                _type_of(value)
                for leaf in leaves
                for found, value in _scalars("", leaf["event"].get("context", {}))
                if found == path
            }
        )
    )


def _scalars(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _scalars(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _scalars(path, inner)
    else:
        yield path, value


def _type_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "text"
    return "number"
