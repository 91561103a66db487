"""JMESPath over one record, with the few functions that mappings need.

The language is that of https://jmespath.org, with three differences:

* an expression may be a list of expressions: the first one that gives a suitable value is used;
* an expression that fails on a record, because a part of it has another type, gives nothing; an
  unknown function or a wrong number of arguments is refused when the mapping is read;
* keys are matched without regard to case if the mapping says so.

The reader remembers which members it read, so that `left_over` can name the others.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, TypeVar

import jmespath
from jmespath import exceptions, functions, visitor

from ledger_client.collect.importers.auditd import parse_event
from ledger_client.collect.importers.csv_rows import parse_row
from ledger_client.collect.importers.evaluation import Evaluate, Signature, compile_node, is_false
from ledger_client.collect.importers.pairs import parse_keycloak, parse_pairs
from ledger_client.collect.importers.windows import parse_xml
from ledger_client.collect.times import from_epoch, read_with_format
from ledger_core.event.times import format_time

IDENTIFIERS_DEPTH_MAX = 8

# The nodes that read a part of their first child.
_PARTS = frozenset(
    {
        "subexpression",
        "index_expression",
        "projection",
        "value_projection",
        "filter_projection",
        "flatten",
    }
)

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Letters and digits alone: keys with colons are the conditions of a policy.
_names_target = re.compile(
    r"([A-Za-z0-9]*?)(?:Name|Id|ID|Arn|ARN|Identifier)|name|id|arn"
).fullmatch


class Expression:
    """One or more JMESPath texts, compiled; the first that gives a suitable value is used.

    Raises: ValueError for a text that isn't JMESPath, or names a function that doesn't exist.
    """

    __slots__ = ("evaluates", "texts")

    def __init__(self, texts: list[str]) -> None:
        self.texts = tuple(texts)
        self.evaluates = tuple(map(_compile, self.texts))

    def __str__(self) -> str:
        return ", ".join(f"`{text}`" for text in self.texts)


def _compile(text: str) -> Evaluate:
    try:
        parsed: dict[str, Any] = jmespath.compile(text).parsed
    except exceptions.JMESPathError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"not a JMESPath expression: {reason}") from None
    _check_functions(parsed)
    _check_negations(parsed)
    return compile_node(parsed)


def _check_negations(node: dict[str, Any]) -> None:
    """Refuse a member of a negation, which nothing has. Raises: ValueError."""
    children = [child for child in node.get("children", ()) if isinstance(child, dict)]
    if node["type"] in _PARTS and children and children[0]["type"] == "not_expression":
        raise ValueError("`!a.b` reads b of `!a`, and is never true: write `!(a.b)`")
    for child in children:
        _check_negations(child)


def _check_functions(node: dict[str, Any]) -> None:
    children = [child for child in node.get("children", ()) if isinstance(child, dict)]
    if node["type"] == "function_expression":
        known = _Functions.FUNCTION_TABLE.get(node["value"])
        if known is None:
            raise ValueError(f"there is no function {node['value']}()")
        wanted = known["signature"]
        is_variadic = bool(wanted) and wanted[-1].get("variadic", False)
        if len(children) < len(wanted) or (len(children) > len(wanted) and not is_variadic):
            raise ValueError(f"{node['value']}() takes {len(wanted)} arguments")
    for child in children:
        _check_functions(child)


def _takes(*arguments: list[str]) -> Callable[[_Function], _Function]:
    """Declare the types of a function's arguments; an empty list is any type."""
    decorate: Callable[[_Function], _Function] = functions.signature(
        *({"types": types} for types in arguments)
    )
    return decorate


def _takes_several(of_type: str) -> Callable[[_Function], _Function]:
    decorate: Callable[[_Function], _Function] = functions.signature(
        {"types": [of_type], "variadic": True}
    )
    return decorate


class _Functions(functions.Functions):  # type: ignore[misc]  # jmespath has no types
    """The functions of JMESPath and of mappings; `docs/importers.md` lists them."""

    whole: Any = None

    def __init__(self) -> None:
        # By identity, as in `RecordReader`.
        self.merged: dict[int, tuple[dict[str, Any], tuple[dict[str, Any], ...]]] = {}

    @_takes()
    def _func_whole(self) -> Any:
        """Return the record itself, where a mapping's `record` is a part of it."""
        return self.whole

    @_takes(["string"])
    def _func_lower(self, text: str) -> str:
        return text.lower()

    @_takes(["string"], ["string"], ["string"])
    def _func_replace(self, text: str, old: str, new: str) -> str:
        return text.replace(old, new)

    @_takes(["string"], ["string"])
    def _func_split(self, text: str, separator: str) -> list[str]:
        return text.split(separator) if separator else [text]

    @_takes(["string"], ["string"])
    def _func_after(self, text: str, separator: str) -> str:
        """Return the text after the first separator; "" without one."""
        return text.partition(separator)[2] if separator else ""

    @_takes(["string"], ["string"])
    def _func_without_suffix(self, text: str, suffix: str) -> str:
        return text.removesuffix(suffix)

    @_takes(["object"], ["string"])
    def _func_member(self, members: dict[str, Any], key: str) -> Any:
        """Return the member whose key is a value of the record."""
        return members.get(key)

    @_takes(["string"])
    def _func_is_address(self, text: str) -> bool:
        return _is_address(text)

    @_takes(["array-number"])
    def _func_from_bytes(self, octets: list[float]) -> str | None:
        """Read a list of bytes as UTF-8; null for other numbers."""
        try:
            return bytes(int(octet) for octet in octets).decode(errors="backslashreplace")
        except (ValueError, OverflowError):
            return None

    @_takes(["string"])
    def _func_parse_json(self, text: str) -> Any:
        """Decode a JSON text inside the record; null if it isn't JSON."""
        try:
            return json.loads(text, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            return None

    @_takes(["array-string"])
    def _func_parse_auditd(self, lines: list[str]) -> dict[str, Any] | None:
        """Parse the lines of one event of auditd; null if one of them isn't auditd's."""
        return parse_event(lines)

    @_takes(["array", "object", "null"])
    def _func_by_name(self, items: Any) -> dict[str, Any]:
        """Turn `[{"name": "a", "value": 1}]` into `{"a": 1}`; an object is returned as it is.

        `Name` and `Value` are read too. Without a value the first other member stands for it.
        """
        if not isinstance(items, list):
            return items or {}
        found: dict[str, Any] = {}
        for item in items:
            members = {key.lower(): item[key] for key in item} if isinstance(item, dict) else {}
            name = members.pop("name", None)
            if isinstance(name, str):
                found[name] = members.get("value", next(iter(members.values()), None))
        return found

    @_takes(["string"])
    def _func_parse_csv(self, text: str) -> list[str] | None:
        """Read one row of CSV; null if the text isn't one."""
        return parse_row(text)

    @_takes(["string"])
    def _func_parse_pairs(self, text: str) -> dict[str, str]:
        """Read `a=b, c="d e"`, as `parse_pairs` of `pairs`."""
        return parse_pairs(text)

    @_takes(["string"])
    def _func_parse_keycloak(self, text: str) -> dict[str, str]:
        """Read the pairs of an event of Keycloak that can't have been typed by a user."""
        return parse_keycloak(text)

    @_takes(["string"])
    def _func_parse_windows_xml(self, text: str) -> dict[str, Any] | None:
        """Parse one event of Windows in XML; null if it isn't one."""
        return parse_xml(text)

    @_takes_several("object")
    def _func_merge(self, *objects: dict[str, Any]) -> dict[str, Any]:
        """Merge objects, as JMESPath does; what is read of the result is read of them."""
        merged = {key: member for each in objects for key, member in each.items()}
        self.merged[id(merged)] = (merged, objects)
        return merged

    @_takes(["number"], ["string"])
    def _func_from_unix(self, moment: float, unit: str) -> str | None:
        """Format the time that is a number of `s`, `ms`, `us` or `ns` after 1970, rounded."""
        unix_us = from_epoch(moment, unit)
        return None if unix_us is None else format_time(unix_us)

    @_takes(["string"], ["string"])
    def _func_parse_time(self, text: str, form: str) -> str | None:
        """Read a time by a format of `strptime`; null if the text has another form."""
        return read_with_format(text, form)

    @_takes([], ["array-string"])
    def _func_identifiers(self, value: Any, but: list[str]) -> list[dict[str, str]]:
        """List what `…Name`, `…Id`, `…Arn` and `…Identifier` name, at any depth: `{"id", "type"}`.

        `{"userName": "jo"}` names a `user`. A plain `name`, `id` or `arn` counts only at the top:
        deeper it mostly belongs to a filter.
        """
        return list(_identifiers(value, frozenset(but), depth=1))


# The same few thousand addresses come back in all records of a file.
@lru_cache(maxsize=16_384)
def _is_address(text: str) -> bool:
    with suppress(ValueError):
        return bool(ip_address(text))
    return False


_signatures = {name: Signature(known) for name, known in _Functions.FUNCTION_TABLE.items()}


def _identifiers(value: object, but: frozenset[str], *, depth: int) -> Iterator[dict[str, str]]:
    if depth > IDENTIFIERS_DEPTH_MAX:
        return
    if isinstance(value, list):
        for item in value:
            yield from _identifiers(item, but, depth=depth + 1)
    elif isinstance(value, dict):
        for name, member in value.items():
            match = _names_target(name)
            if match and isinstance(member, str) and member and name not in but:
                if match[1] or depth == 1:
                    yield {"id": member, "type": match[1] or ""}
            else:
                yield from _identifiers(member, but, depth=depth + 1)


class RecordReader(visitor.TreeInterpreter):  # type: ignore[misc]  # jmespath has no types
    """Evaluates the expressions of a mapping over one record."""

    def __init__(self, *, any_case: bool, whole: Any = None) -> None:
        functions_of_record = _Functions()
        functions_of_record.whole = whole
        self._merged = functions_of_record.merged
        super().__init__(jmespath.Options(custom_functions=functions_of_record))
        self._any_case = any_case
        # By identity. The object is kept beside the answer, so that its id stays its own.
        self._read: dict[int, tuple[dict[str, Any], set[str]]] = {}
        self._folded: dict[int, tuple[dict[str, Any], dict[str, str]]] = {}
        self._read_whole: dict[int, dict[str, Any]] = {}

    def values(self, expression: Expression | None, value: Any) -> Iterator[Any]:
        """Yield what each text of an expression finds, in order; null is left out."""
        for evaluate in expression.evaluates if expression else ():
            try:
                found = evaluate(self, value)
            except (ValueError, TypeError, AttributeError):
                continue
            if found is not None:
                yield found

    def first(self, expression: Expression | None, value: Any) -> Any:
        """Return the first value found, and mark all of it as read; None if there is none."""
        found = next(self.values(expression, value), None)
        self._mark_read(found)
        return found

    def text(self, expression: Expression | None, value: Any) -> str:
        """Return the first text, or whole number as its digits; otherwise ""."""
        for found in self.values(expression, value):
            if found and isinstance(found, str):
                return found
            if isinstance(found, int) and not isinstance(found, bool):
                return str(found)
        return ""

    def is_true(self, expression: Expression | None, value: Any) -> bool:
        """Tell whether one of them is true in the sense of JMESPath: empty values are false."""
        return any(not is_false(found) for found in self.values(expression, value))

    def left_over(self, root: Any, whole: Any) -> list[str]:
        """Name the members that no expression read: `actor.type`, `target[].id`.

        `root` is the part of the record `whole` that the expressions are about, or all of it.
        """
        for merged, parts in self._merged.values():
            self._mark_parts(merged, parts)
        # The members of a merged object are those of its parts, under their own names.
        names = [] if id(root) in self._merged else [*self._unread(root, "")]
        if root is not whole:
            self._read_whole[id(root)] = root
            names += self._unread(whole, "")
        return list(dict.fromkeys(names))

    def _mark_parts(self, merged: dict[str, Any], parts: tuple[dict[str, Any], ...]) -> None:
        _, read = self._read.get(id(merged), (merged, frozenset()))
        for part in parts:
            known = self._read.setdefault(id(part), (part, set()))[1]
            known |= {key for key in read if part.get(key) is merged.get(key)}

    def visit_field(self, node: dict[str, Any], value: Any) -> Any:
        """Read a member; the interpreter calls this for each name in an expression."""
        return self.member(node["value"], node["value"].lower(), value)

    def member(self, key: str, folded: str, value: Any) -> Any:
        """Read a member; `folded` is its key in lower case."""
        if not isinstance(value, dict):
            return None
        if self._any_case and key not in value:
            key = self._folded_keys(value).get(folded, key)
        known = self._read.get(id(value))
        if known is None:
            known = self._read[id(value)] = (value, set())
        known[1].add(key)
        return value.get(key)

    def call(self, name: str, arguments: list[Any]) -> Any:
        """Call a function. Raises: JMESPathError, a ValueError, for arguments of wrong types."""
        signature = _signatures[name]
        if signature.takes(arguments):
            return signature.call(self._functions, arguments)
        return self._functions.call_function(name, arguments)

    def _folded_keys(self, members: dict[str, Any]) -> dict[str, str]:
        known = self._folded.get(id(members))
        if known is None:
            known = self._folded[id(members)] = (members, {key.lower(): key for key in members})
        return known[1]

    def _mark_read(self, value: Any) -> None:
        if isinstance(value, dict):
            self._read_whole[id(value)] = value
            for member in value.values():
                self._mark_read(member)
        elif isinstance(value, list):
            for item in value:
                self._mark_read(item)

    def _unread(self, value: Any, path: str) -> Iterator[str]:
        if isinstance(value, list):
            for item in value:
                yield from self._unread(item, f"{path}[]")
        elif isinstance(value, dict) and id(value) not in self._read_whole:
            _, read = self._read.get(id(value), (value, frozenset()))
            for key, member in value.items():
                inner = f"{path}.{key}" if path else key
                if isinstance(member, dict) or (
                    isinstance(member, list) and any(isinstance(item, dict) for item in member)
                ):
                    yield from self._unread(member, inner)
                elif key not in read:
                    yield inner
