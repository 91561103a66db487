"""Parameters of paths and queries: how each is parsed, described and documented."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from keyword import iskeyword
from typing import Any, Final, Literal

from ledger_core.query.parser import QUERY_CHARS_MAX
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import SIZE_MAX
from ledger_core.tlog.text import excerpt, parse_size


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query, or of the path, where it has a pattern.

    `parse` raises MalformedError.
    """

    name: str
    help: str
    _: KW_ONLY
    place: Literal["path", "query"] = "query"
    parse: Callable[[str], Any] = str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = False
    pattern: str = "[^/]+"

    @property
    def argument(self) -> str:
        """The name of the handler's argument: `from`, a keyword of Python, becomes `from_`."""
        return f"{self.name}_" if iskeyword(self.name) else self.name


def number_parameter(name: str, help_: str, *, most: int, least: int = 0) -> Parameter:
    """A number from `least` to `most` in the query."""

    def parse(text: str) -> int:
        number = parse_size(text)
        if not least <= number <= most:
            raise MalformedError(f"want {least} to {most}, got {number}")
        return number

    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Parameter(name, help_, schema=schema, parse=parse)


def size_parameter(name: str, help_: str, *, required: bool = False) -> Parameter:
    """A tree size or an index in the query."""
    schema = {"type": "integer", "minimum": 0, "maximum": SIZE_MAX}
    return Parameter(name, help_, schema=schema, parse=parse_size, required=required)


def choice_parameter(name: str, choices: Sequence[str], help_: str) -> Parameter:
    """One of a few words in the query."""

    def parse(text: str) -> str:
        if text not in choices:
            raise MalformedError(f"not one of {', '.join(choices)}: {excerpt(text)}")
        return text

    schema = {"type": "string", "enum": list(choices)}
    return Parameter(name, help_, schema=schema, parse=parse)


def flag_parameter(name: str, help_: str) -> Parameter:
    """1 or 0 in the query."""

    def parse(text: str) -> bool:
        if text not in ("0", "1"):
            raise MalformedError(f"not 0 or 1: {excerpt(text)}")
        return text == "1"

    schema = {"type": "string", "enum": ["0", "1"]}
    return Parameter(name, help_, schema=schema, parse=parse)


QUERY: Final = Parameter(
    "q",
    "The query: `actor:u_5 action:login.* outcome:failure since:-24h`. Left out, every event.",
    schema={"type": "string", "maxLength": QUERY_CHARS_MAX},
)
EVENT_REF: Final = Parameter("ref", "An index, or the UUID of an event.", place="path")
FROM_SIZE: Final = size_parameter(
    "from_size", "With proof=1: also prove that the tree of the head begins with this one."
)
