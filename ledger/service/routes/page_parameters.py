"""The parameters of the routes that answer with a page of events: paging, counts and proofs."""

from typing import Final

from ledger.query.cursor import ORDERS
from ledger.query.facets import UNITS
from ledger.service.http.parameters import (
    FROM_SIZE,
    Parameter,
    choice_parameter,
    flag_parameter,
    number_parameter,
)
from ledger.service.queries.search import LIMIT_DEFAULT
from ledger_core.query.fields import FACETS
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import excerpt

LIMIT_MAX: Final = 1000


def _parse_facets(text: str) -> tuple[str, ...]:
    names = text.split(",")
    fields = tuple(field for field in FACETS if field in names)
    for name in names:
        if name not in FACETS:
            raise MalformedError(f"{excerpt(name)} is not one of {', '.join(FACETS)}")
    if len(fields) != len(names):
        raise MalformedError("a field stands twice")
    return fields


PAGING: Final = (
    number_parameter(
        "limit", f"Events in a page, {LIMIT_DEFAULT} when left out; 0 only counts.", most=LIMIT_MAX
    ),
    Parameter(
        "cursor",
        "Where the page before ended: its `cursor`, with the same query, order and token.",
        schema={"type": "string", "maxLength": 1024},
    ),
    choice_parameter(
        "order",
        ORDERS,
        "Which come first: the newest or the oldest by index, that is, by when they came in; or "
        "`time`, by when they happened, the index second, and `time-newest` with the latest first.",
    ),
)
COUNTS: Final = (
    Parameter(
        "facets",
        f"Count the values of these fields, with commas between: {', '.join(FACETS)}.",
        schema={
            "type": "string",
            "pattern": "^({0})(,({0}))*$".format("|".join(FACETS).replace(".", r"\.")),
        },
        parse=_parse_facets,
    ),
    choice_parameter(
        "histogram", UNITS, "Count the events by the hour or day at which they happened."
    ),
)
PROVING: Final = (
    flag_parameter("proof", "1 adds to each event a tlog-proof, all against one published head."),
    FROM_SIZE,
)
