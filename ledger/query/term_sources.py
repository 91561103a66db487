"""Which dimensions a growing segment holds, and what the others are derived from.

Words, families, folded values and hours are not stored while a segment grows. They are derived from
names, values and minutes when a query needs them: many entries share one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import inf
from operator import attrgetter
from typing import Final, TypeAlias

from ledger.store.index.postings import Postings, join
from ledger.store.index.roaring_containers import Container, union
from ledger_core.query import analyzer
from ledger_core.query.analyzer import (
    MORE,
    is_hint,
    terms_beyond,
    terms_of,
    terms_of_id,
    terms_of_name,
)
from ledger_core.query.fields import DIMENSIONS, FIELDS, FOLDED
from ledger_core.query.user_agents import family_of

Derive: TypeAlias = Callable[[str], Iterable[str]]

BEHALF_NAME = "on_behalf_of.name"
CHANGED = "changed"
IN_MEMORY = (BEHALF_NAME, CHANGED)
TIMES = frozenset(("late", "minute", "received"))


def _words_of_cut(derive: Derive) -> Derive:
    """The words of a value that may be cut; MORE where it may have had more."""
    return lambda value: [*derive(value), MORE] if is_hint(value) else derive(value)


WORDS: Mapping[str, Sequence[tuple[str, Derive]]] = {
    "word": (
        ("action", terms_of),
        ("actor", _words_of_cut(terms_of_id)),
        ("actor.on_behalf_of", _words_of_cut(terms_of_id)),
        ("target", _words_of_cut(terms_of_id)),
        ("target.type", _words_of_cut(terms_of)),
        (BEHALF_NAME, terms_of),
        (CHANGED, terms_of),
        ("actor.name", terms_beyond),
        ("target.name", terms_beyond),
        ("user_agent", terms_beyond),
    ),
    "actor.name.word": (("actor.name", terms_of_name),),
    "target.name.word": (("target.name", terms_of_name),),
    "user_agent.word": (("user_agent", terms_of_name),),
    "user_agent.family": (("user_agent", lambda text: filter(None, (family_of(text),))),),
    analyzer.FOLDED_TERMS: [(name, partial(analyzer.folded_terms, name)) for name in FOLDED],
}
DERIVED: Mapping[str, Sequence[tuple[str, Derive]]] = {
    **WORDS,
    analyzer.FAMILY: (("action", analyzer.families_of),),
    "hour": (("minute", lambda minute: (minute[: analyzer.HOUR_CHARS],)),),
}
"""The dimensions that are not stored while a segment grows, and what each is derived from."""

HELD = (*(name for name in DIMENSIONS if name not in DERIVED), *IN_MEMORY)
HASHABLE: Final = frozenset(HELD) - {
    "late",
    "minute",
    "outcome",
    "port",
    "received",
    "target.several",
}
"""The dimensions whose texts a slice may leave out; those of the others are few or short."""

SINGLE = [
    (field, part, attrgetter(name))
    for field in map(FIELDS.__getitem__, HELD[: -len(IN_MEMORY)])
    if field.attribute.startswith("event.")
    for part, _, name in (field.attribute.removeprefix("event.").rpartition("."),)
]
"""The fields of which an event has one value: the part of the event that holds it, and a reader."""

PARTS = {part: attrgetter(part) for _, part, _ in SINGLE if part}

DERIVED_MAX: Final = 500_000
"""Terms of the values of one dimension that are derived in memory when a segment is sealed."""


class TooManyTermsError(Exception):
    """More terms are derived from values than are sealed in memory."""


def derive_postings(
    sources: Iterable[tuple[str, Derive]],
    postings_of: Callable[[str], Postings],
    *,
    most: float = inf,
) -> Postings:
    """The postings that are derived from those of other dimensions.

    Raises: TooManyTermsError beyond `most` terms of values.
    """
    found = 0
    derived: dict[str, list[Container]] = defaultdict(list)
    for name, terms_of_value in sources:
        for terms, container in postings_of(name).with_derived(terms_of_value):
            for term in terms:
                derived[term].append(container)
                found += 1
            if found > most:
                raise TooManyTermsError
    return join((term, union(containers)) for term, containers in sorted(derived.items()))
