"""The file of a kind of follower: TOML, with a named table for each follower.

A fault names the file, the follower and the key.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from ledger.follow.position import is_name
from ledger.runtime.validation import explain_invalid
from ledger_client.runtime.files import read_utf8, write_atomically
from ledger_core.tlog.errors import MalformedError
from ledger_core.toml import parse_toml


class FollowerConfig(msgspec.Struct, frozen=True):
    """The content of a table: the base of the kinds' own structs."""

    def check(self) -> None:
        """Raises: MalformedError for values that don't go together."""


C = TypeVar("C", bound=FollowerConfig)

_PROSE: Final = frozenset({"query", "then", "summary"})
"""The keys whose texts may have several lines."""


def parse_tables(text: str, file: str, kind: type[C], *, what: str, most: int) -> dict[str, C]:
    """The followers of a text, `most` at most. `what` is one of them, in messages.

    Raises: MalformedError.
    """
    try:
        tables = parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise MalformedError(f"{file}: {error}") from None
    if len(tables) > most:
        raise MalformedError(f"{file}: {len(tables)} {what}s, at most {most} are allowed")
    return {name: parse_table(name, table, file, kind, what=what) for name, table in tables.items()}


def read_tables(path: Path, kind: type[C], *, what: str, most: int) -> dict[str, C]:
    """The followers of a file, none without one. Raises: as `parse_tables`, OSError."""
    try:
        text = read_utf8(path)
    except FileNotFoundError:
        return {}
    return parse_tables(text, str(path), kind, what=what, most=most)


def read_table(path: Path, name: str, kind: type[C], *, what: str) -> C | None:
    """One follower, None when there is none of this name; a fault of another one is no matter.

    Raises: MalformedError, OSError.
    """
    try:
        tables = parse_toml(read_utf8(path))
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
        _check_texts(config)
        config.check()
    except msgspec.ValidationError as error:
        raise MalformedError(f"{file}: {what} {name!a}: {explain_invalid(error, kind)}") from None
    except MalformedError as error:
        raise MalformedError(f"{file}: {what} {name!a}: {error}") from None
    return config


def add_table(path: Path, name: str, config: C, *, what: str, most: int) -> None:
    """Append a follower to a file, whose comments stay.

    Raises: MalformedError for a bad or taken name, and for unfit values; OSError.
    """
    check_name(name)
    _check_texts(config)
    config.check()
    kind = type(config)
    before = read_tables(path, kind, what=what, most=most)
    if name in before:
        raise MalformedError(f"there is a {what} named {name} already")
    text = read_utf8(path) if path.exists() else ""
    text += ("\n" if text else "") + _format_table(name, config)
    if parse_tables(text, str(path), kind, what=what, most=most) != {**before, name: config}:
        raise MalformedError(f"{path} can't be added to by this command; edit it")
    write_atomically(path, text.encode())


def remove_table(path: Path, name: str, kind: type[C], *, what: str, most: int) -> None:
    """Cut a follower out of a file. Comments behind its last key stay: they may be of the next.

    Raises: MalformedError when there is none, OSError.
    """
    before = read_tables(path, kind, what=what, most=most)
    if name not in before:
        raise MalformedError(f"there is no {what} named {name}")
    kept: list[str] = []
    comments: list[str] = []  # Those since the last key of the table.
    is_inside = False
    for line in read_utf8(path).splitlines(keepends=True):
        if line.startswith("["):
            is_inside = _header_name(line) == name
            kept += comments
            comments = []
        if not is_inside:
            kept.append(line)
        elif not line.strip() or line.lstrip().startswith("#"):
            comments.append(line)
        else:
            comments = []
    kept += comments
    del before[name]
    if parse_tables("".join(kept), str(path), kind, what=what, most=most) != before:
        raise MalformedError(f"{path} has a layout that this command can't change; edit it")
    write_atomically(path, "".join(kept).encode())


def change_tables(path: Path, changed: Mapping[str, C], *, what: str, most: int) -> None:
    """Give followers of a file other values, all in one write; comments stay.

    Raises: MalformedError for values that don't go together, and for a layout that this can't
    change; OSError.
    """
    kind = type(next(iter(changed.values())))
    before = read_tables(path, kind, what=what, most=most)
    fresh = {name: _lines_of(config, before[name]) for name, config in changed.items()}
    kept: list[str] = []
    name = ""
    for line in read_utf8(path).splitlines(keepends=True):
        if line.startswith("["):
            name = _header_name(line)
            kept += [line if line.endswith("\n") else f"{line}\n"]
            kept += [each for each in fresh.get(name, {}).values() if each]
        elif line.partition("=")[0].strip().strip('"') not in fresh.get(name, {}):
            kept.append(line)
    text = "".join(kept)
    if parse_tables(text, str(path), kind, what=what, most=most) != {**before, **changed}:
        raise MalformedError(f"{path} has a layout that this command can't change; edit it")
    write_atomically(path, text.encode())


def _header_name(line: str) -> str:
    """The name in the header of a table, `[name]` or `["name"]`; else what stands there."""
    return line.partition("#")[0].strip()[1:-1].removeprefix('"').removesuffix('"')


def _lines_of(config: FollowerConfig, before: FollowerConfig) -> dict[str, str]:
    """The lines of the keys that have other values than before; empty for a default."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(type(config))}
    old = msgspec.structs.asdict(before)
    return {
        key: "" if value == defaults[key] else f"{key} = {msgspec.json.encode(value).decode()}\n"
        for key, value in msgspec.structs.asdict(config).items()
        if value != old[key]
    }


def _format_table(name: str, config: FollowerConfig) -> str:
    """The table of a follower: what differs from the defaults."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(type(config))}
    lines = [f"[{name}]"]
    lines += [
        # JSON of a string, a number, a boolean or a list of strings is TOML of it.
        f"{key} = {msgspec.json.encode(value).decode()}"
        for key, value in msgspec.structs.asdict(config).items()
        if value != defaults[key]
    ]
    return "\n".join(lines) + "\n"


def _check_texts(config: FollowerConfig) -> None:
    """Refuse line ends and control characters: they would end a header, a command or a path.

    Raises: MalformedError naming the key.
    """
    for key, value in msgspec.structs.asdict(config).items():
        texts = [value] if isinstance(value, str) else value if isinstance(value, tuple) else []
        if key not in _PROSE and not all(map(str.isprintable, texts)):
            raise MalformedError(f"{key}: it has a line end, or a character that can't be printed")


def check_name(name: str) -> None:
    """Raises: MalformedError for what can't be the name of a follower."""
    if not is_name(name):
        raise MalformedError("a name has up to 63 of A-Z a-z 0-9 _ -, and begins with none of _ -")
