"""Parameters of paths and queries: how each is parsed, described and documented."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, Final, Literal

from ledger_core.query.parser import QUERY_CHARS_MAX
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import SIZE_MAX
from ledger_core.tlog.text import excerpt, parse_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of the path or the query. `pattern` is the form of one in a path."""

    name: str
    place: Literal["path", "query"]
    parse: Callable[[str], Any]
    schema: Mapping[str, Any]
    help: str
    required: bool = False
    pattern: str = "[^/]+"

    @property
    def argument(self) -> str:
        """The name of the handler's argument: `from`, a keyword of Python, becomes `from_`."""
        return f"{self.name}_" if iskeyword(self.name) else self.name


def path_parameter(
    name: str, help_: str, *, pattern: str = "[^/]+", schema: Mapping[str, Any] | None = None
) -> Parameter:
    """A part of the path."""
    return Parameter(
        name=name,
        place="path",
        parse=str,
        schema=schema or {"type": "string"},
        help=help_,
        required=True,
        pattern=pattern,
    )


def query_parameter(
    name: str,
    help_: str,
    *,
    schema: Mapping[str, Any],
    parse: Callable[[str], Any] = str,
    required: bool = False,
) -> Parameter:
    """A parameter of the query. `parse` raises MalformedError."""
    return Parameter(
        name=name, place="query", parse=parse, schema=schema, help=help_, required=required
    )


def number_parameter(name: str, help_: str, *, most: int, least: int = 0) -> Parameter:
    """A number from `least` to `most` in the query."""

    def parse(text: str) -> int:
        number = parse_size(text)
        if not least <= number <= most:
            raise MalformedError(f"want {least} to {most}, got {number}")
        return number

    schema = {"type": "integer", "minimum": least, "maximum": most}
    return query_parameter(name, help_, schema=schema, parse=parse)


def size_parameter(name: str, help_: str, *, required: bool = False) -> Parameter:
    """A tree size or an index in the query."""
    schema = {"type": "integer", "minimum": 0, "maximum": SIZE_MAX}
    return query_parameter(name, help_, schema=schema, parse=parse_size, required=required)


def choice_parameter(name: str, choices: Sequence[str], help_: str) -> Parameter:
    """One of a few words in the query."""

    def parse(text: str) -> str:
        if text not in choices:
            raise MalformedError(f"not one of {', '.join(choices)}: {excerpt(text)}")
        return text

    schema = {"type": "string", "enum": list(choices)}
    return query_parameter(name, help_, schema=schema, parse=parse)


def flag_parameter(name: str, help_: str) -> Parameter:
    """1 or 0 in the query."""

    def parse(text: str) -> bool:
        if text not in ("0", "1"):
            raise MalformedError(f"not 0 or 1: {excerpt(text)}")
        return text == "1"

    schema = {"type": "string", "enum": ["0", "1"]}
    return query_parameter(name, help_, schema=schema, parse=parse)


QUERY: Final = query_parameter(
    "q",
    "The query: `actor:u_5 action:login.* outcome:failure since:-24h`. Left out, every event.",
    schema={"type": "string", "maxLength": QUERY_CHARS_MAX},
)
EVENT_REF: Final = path_parameter("ref", "An index, or the UUID of an event.")
FROM_SIZE: Final = size_parameter(
    "from_size", "With proof=1: also prove that the tree of the head begins with this one."
)
