"""The file of a kind of follower: TOML, with a named table for each follower.

A fault names the file, the follower and the key.
"""

import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from ledger.follow.position import is_name
from ledger.runtime.validation import explain_invalid
from ledger_client.runtime.files import read_utf8
from ledger_core.tlog.errors import MalformedError


class FollowerConfig(msgspec.Struct, frozen=True):
    """The content of a table: the base of the kinds' own structs."""

    def check(self) -> None:
        """Raises: MalformedError for values that don't go together."""


C = TypeVar("C", bound=FollowerConfig)


def parse_tables(text: str, file: str, kind: type[C], *, what: str, most: int) -> dict[str, C]:
    """The followers of a text, `most` at most. `what` is one of them, in messages.

    Raises: MalformedError.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MalformedError(f"{file}: {error}") from None
    if len(tables) > most:
        raise MalformedError(f"{file}: {len(tables)} {what}s, at most {most} are allowed")
    return {name: parse_table(name, table, file, kind, what=what) for name, table in tables.items()}


def read_table(path: Path, name: str, kind: type[C], *, what: str) -> C | None:
    """One follower, None when there is none of this name; a fault of another one is no matter.

    Raises: MalformedError, OSError.
    """
    try:
        tables = tomllib.loads(read_utf8(path))
    except FileNotFoundError:
        return None
    except tomllib.TOMLDecodeError as error:
        raise MalformedError(f"{path}: {error}") from None
    return parse_table(name, tables[name], str(path), kind, what=what) if name in tables else None


def parse_table(name: str, table: object, file: str, kind: type[C], *, what: str) -> C:
    """One follower. Raises: MalformedError."""
    try:
        check_name(name)
        config = msgspec.convert(table, kind)
        config.check()
    except msgspec.ValidationError as error:
        raise MalformedError(f"{file}: {what} {name!a}: {explain_invalid(error, kind)}") from None
    except MalformedError as error:
        raise MalformedError(f"{file}: {what} {name!a}: {error}") from None
    return config


def check_name(name: str) -> None:
    """Raises: MalformedError for what can't be the name of a follower."""
    if not is_name(name):
        raise MalformedError("a name has up to 63 of A-Z a-z 0-9 _ -, and begins with none of _ -")
