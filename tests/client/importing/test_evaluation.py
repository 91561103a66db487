"""Compiled expressions give what the interpreter of jmespath gives."""

from typing import Any

import jmespath
import pytest

from ledger_client.collect.importers.expressions import Expression, RecordReader

RECORD: dict[str, Any] = {
    "a": {"b": [1, 2, 3], "c": "x", "empty": "", "zero": 0, "no": False},
    "items": [{"n": 1, "name": "one"}, {"n": 2}, {"n": None}, "text", []],
    "texts": ["p", "q"],
    "mixed": ["p", 1],
    "code": 403,
    "word": "m",
}
EXPRESSIONS = [
    *("a.b[0]", "a.b[-1]", "a.b[3]", "a.b[-4]", "a.c[0]", "nothing[0]", "@", "a.b[1:]", "a.b[:-1]"),
    *("[a.c, code, nothing]", "nothing.[a, b]", "a.[c, b[0]]", "[a.c, nothing, word][?@]"),
    *("items[?n].name", "items[?n == `1`]", "items[?n > `1`].n", "a[?c]", "code[?@]", "items[?@]"),
    *("code >= `400`", "code < `400`", "code > word", "word > 'a'", "nothing < `1`", "a.no < `1`"),
    *("a.zero && 'yes'", "a.empty || 'other'", "!(a.zero)", "!(a.empty)", "a.no == `false`"),
    *("join('.', texts)", "join('.', mixed)", "join('.', [a.c, nothing][?@])", "length(a.b)"),
    *("contains(texts, 'p')", "contains([`401`, `403`], code)", "contains(word, 'm')", "max(a.b)"),
    *("sum(mixed)", "sort_by(items[?n], &n)[-1].n", "items[].n", "a.b[?@ != `2`] | [0]", "*.c"),
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_a_compiled_expression_gives_what_jmespath_gives(text: str) -> None:
    try:
        expected = jmespath.search(text, RECORD)
    except (ValueError, TypeError):
        expected = None  # What fails gives nothing.
    assert RecordReader(any_case=False).first(Expression([text]), RECORD) == expected
