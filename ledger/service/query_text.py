"""Reads the query of a request, or leaves one with an `@name` to the query process."""

from ledger_core.query.ast import Expression
from ledger_core.query.parser import QUERY_CHARS_MAX, is_naming, parse_query


def read_query(text: str) -> Expression | str:
    """The expression of a query, or its text if it has an `@name`. Raises: QueryError.

    The query process reads such a text. What a name stands for takes seconds to read, and as an
    object to receive, if it is a list of 100,000 values; the event loop has no time for that.
    """
    if is_naming(text) and len(text) <= QUERY_CHARS_MAX:
        return text
    return parse_query(text)
