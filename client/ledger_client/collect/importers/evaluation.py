"""The nodes of a JMESPath expression as Python functions, compiled once.

    evaluate = compile_node(jmespath.compile("userIdentity.arn").parsed)
    evaluate(reader, record)

`TreeInterpreter` asks each node for its kind whenever it is visited, and checks the arguments of a
function by the names of their types: that was a half of the time of an import. The kinds of nodes
that mappings use most are functions here. The interpreter visits the others, which give the same
values, only slower.
"""

from collections.abc import Callable
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from jmespath import visitor

if TYPE_CHECKING:
    from ledger_client.collect.importers.expressions import RecordReader

Evaluate = Callable[["RecordReader", Any], Any]

_PYTHON_TYPES: Final[dict[str, frozenset[type]]] = {
    "string": frozenset({str}),
    "object": frozenset({dict}),
    "array": frozenset({list}),
    "boolean": frozenset({bool}),
    "number": frozenset({int, float}),
    "null": frozenset({NoneType}),
}
_EQUALITIES: Final = ("eq", "ne")
_ORDERED: Final = frozenset({int, float, str})


def compile_node(node: dict[str, Any]) -> Evaluate:
    """Compile one node with its children."""
    make = _COMPILERS.get(node["type"])
    return _visited(node) if make is None else make(node)


def is_false(value: object) -> bool:
    """Whether a value is false in the sense of JMESPath: 0 is not."""
    kind = type(value)
    if kind is str or kind is dict or kind is list:
        return not value
    return value is None or value is False


def _visited(node: dict[str, Any]) -> Evaluate:
    return lambda reader, value: reader.visit(node, value)


def _field(node: dict[str, Any]) -> Evaluate:
    key: str = node["value"]
    folded = key.lower()
    return lambda reader, value: reader.member(key, folded, value)


def _literal(node: dict[str, Any]) -> Evaluate:
    return lambda _, __: node["value"]


def _chain(node: dict[str, Any]) -> Evaluate:
    steps = [compile_node(child) for child in node["children"]]

    def evaluate(reader: "RecordReader", value: Any) -> Any:
        for step in steps:
            value = step(reader, value)
        return value

    return evaluate


def _and(node: dict[str, Any]) -> Evaluate:
    left, right = map(compile_node, node["children"])

    def evaluate(reader: "RecordReader", value: Any) -> Any:
        found = left(reader, value)
        return found if is_false(found) else right(reader, value)

    return evaluate


def _or(node: dict[str, Any]) -> Evaluate:
    left, right = map(compile_node, node["children"])

    def evaluate(reader: "RecordReader", value: Any) -> Any:
        found = left(reader, value)
        return right(reader, value) if is_false(found) else found

    return evaluate


def _not(node: dict[str, Any]) -> Evaluate:
    inner = compile_node(node["children"][0])

    def evaluate(reader: "RecordReader", value: Any) -> Any:
        found = inner(reader, value)
        # No number is false, not even 0.
        return not found and type(found) not in _PYTHON_TYPES["number"]

    return evaluate


def _comparator(node: dict[str, Any]) -> Evaluate:
    left, right = map(compile_node, node["children"])
    compare = visitor.TreeInterpreter.COMPARATOR_FUNC[node["value"]]
    if node["value"] in _EQUALITIES:
        return lambda reader, value: compare(left(reader, value), right(reader, value))

    def evaluate(reader: "RecordReader", value: Any) -> Any:
        one, other = left(reader, value), right(reader, value)
        is_ordered = type(one) in _ORDERED and type(other) in _ORDERED
        return compare(one, other) if is_ordered else None

    return evaluate


def _function(node: dict[str, Any]) -> Evaluate:
    name: str = node["value"]
    children = node["children"]
    if any(child["type"] == "expref" for child in children):
        return _visited(node)
    arguments = [compile_node(child) for child in children]

    def evaluate(reader: "RecordReader", value: Any) -> Any:
        return reader.call(name, [argument(reader, value) for argument in arguments])

    return evaluate


def _current(_: dict[str, Any]) -> Evaluate:
    return lambda _, value: value


def _index(node: dict[str, Any]) -> Evaluate:
    at: int = node["value"]

    def evaluate(_: "RecordReader", value: Any) -> Any:
        if not isinstance(value, list):
            return None
        return value[at] if -len(value) <= at < len(value) else None

    return evaluate


def _list_of_members(node: dict[str, Any]) -> Evaluate:
    members = [compile_node(child) for child in node["children"]]

    def evaluate(reader: "RecordReader", value: Any) -> Any:
        return None if value is None else [member(reader, value) for member in members]

    return evaluate


def _filter(node: dict[str, Any]) -> Evaluate:
    listed, shown, chosen = map(compile_node, node["children"])

    def evaluate(reader: "RecordReader", value: Any) -> Any:
        items = listed(reader, value)
        if not isinstance(items, list):
            return None
        kept = (shown(reader, item) for item in items if not is_false(chosen(reader, item)))
        return [item for item in kept if item is not None]

    return evaluate


_COMPILERS: Final[dict[str, Callable[[dict[str, Any]], Evaluate]]] = {
    "field": _field,
    "literal": _literal,
    "subexpression": _chain,
    "index_expression": _chain,
    "pipe": _chain,
    "and_expression": _and,
    "or_expression": _or,
    "not_expression": _not,
    "comparator": _comparator,
    "function_expression": _function,
    "current": _current,
    "identity": _current,
    "index": _index,
    "multi_select_list": _list_of_members,
    "filter_projection": _filter,
}


class Signature:
    """The function of a name, for arguments whose types are checked at once."""

    __slots__ = ("_items", "_kinds", "_method")

    def __init__(self, known: dict[str, Any]) -> None:
        """`known` is the function's row in the table of jmespath."""
        self._method: Callable[..., Any] = known["function"]
        self._kinds: list[frozenset[type] | None] | None = []
        self._items: list[tuple[int, frozenset[type]]] = []
        """The arguments that are arrays, and the types of their items."""
        for at, parameter in enumerate(known["signature"]):
            names = parameter["types"]
            if len(names) == 1 and names[0].startswith("array-"):
                self._items.append((at, _PYTHON_TYPES[names[0].removeprefix("array-")]))
                names = ["array"]
            if parameter.get("variadic") or not _PYTHON_TYPES.keys() >= set(names):
                self._kinds = None
                break
            kinds = [_PYTHON_TYPES[name] for name in names]
            self._kinds.append(frozenset().union(*kinds) if kinds else None)

    def takes(self, arguments: list[Any]) -> bool:
        """Whether the types surely fit; if not, jmespath checks them and says what is wrong."""
        if self._kinds is None or len(arguments) != len(self._kinds):
            return False
        for kinds, argument in zip(self._kinds, arguments, strict=True):
            if kinds is not None and type(argument) not in kinds:
                return False
        return all(type(item) in kinds for at, kinds in self._items for item in arguments[at])

    def call(self, functions: Any, arguments: list[Any]) -> Any:
        """Call the function."""
        return self._method(functions, *arguments)
