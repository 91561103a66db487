"""Lines of the Linux audit daemon: grouped into events, and parsed.

    type=SYSCALL msg=audit(1364481363.243:24287): syscall=2 success=no exit=-13 auid=1000 key="x"
    type=PATH msg=audit(1364481363.243:24287): item=0 name="/etc/ssh/sshd_config" nametype=NORMAL

One event is several lines with one time and serial. Mostly they are adjacent, but the kernel's
threads interleave, so several events are open at once. An event ends with its `EOE` line, or when
`EVENTS_OPEN_MAX` later ones have begun.

Values are bare, quoted, or hexadecimal where a program chose the bytes. A message of a program is
in single quotes and holds fields of its own. After a byte 1D come the names for the numbers, if the
daemon is configured to add them: `UID="jo"`.
"""

import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import groupby
from typing import Any

from ledger_core.event.times import format_time
from ledger_core.tlog.errors import MalformedError

EVENTS_OPEN_MAX = 32
IPV4_BYTES = 8
IPV6_BYTES = 24

_match_line = re.compile(
    r"(?:node=(?P<node>\S+) )?type=(?P<type>\S+) "
    r"msg=audit\((?P<seconds>[0-9]{1,11})\.(?P<millis>[0-9]{3}):(?P<serial>[0-9]+)\): ?"
    r"(?P<fields>.*)",
    re.DOTALL,
).match
# The node is part of the identity: two hosts may have one millisecond and serial.
_find_id = re.compile(rb"(?:node=(\S+) )?type=\S+ msg=audit\(([0-9.]+:[0-9]+)\)").match
# Only where a name begins: otherwise a long word without a `=` is read once for each letter.
_find_fields = re.compile(
    r"(?<![A-Za-z0-9_-])([A-Za-z0-9_-]+(?:\[[0-9]+\])?)=(\"[^\"]*\"|'[^']*'|[^\s']*)"
).finditer
_is_hex = re.compile(r"(?:[0-9A-F]{2})+").fullmatch
_is_argument = re.compile(r"a[0-9]{1,9}(?:\[[0-9]{1,9}\])?").fullmatch

# Chosen by a program or its user, so the kernel writes these as hexadecimal if necessary.
_TEXTS = frozenset(
    {"acct", "cmd", "comm", "cwd", "data", "exe", "key", "name", "ocomm", "proctitle", "vm"}
)
_ABSENT = frozenset({"", "?", "(null)", "(none)", "4294967295", "-1", "unset"})
_NUMBERS = frozenset({"exit"})
"""Fields in which -1 is a value: EPERM."""


def group_lines(
    lines: Iterable[tuple[int, bytes]], bytes_max: int
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the lines of each event, with the number of its first line.

    Raises: MalformedError for an event that is too long.
    """
    open_events: dict[tuple[bytes | None, ...], tuple[int, list[bytes]]] = {}
    sizes: Counter[tuple[bytes | None, ...]] = Counter()
    for number, line in lines:
        match = _find_id(line)
        if match is None:
            yield number, [line]
            continue
        key = match.groups()
        open_events.setdefault(key, (number, []))[1].append(line)
        sizes[key] += len(line)
        if sizes[key] > bytes_max:
            raise MalformedError(f"line {number}: an event has more than {bytes_max} bytes")
        if line.startswith(b"type=EOE ") or b" type=EOE " in line[:300]:
            del sizes[key]
            yield open_events.pop(key)
        elif len(open_events) > EVENTS_OPEN_MAX:
            key = next(iter(open_events))
            del sizes[key]
            yield open_events.pop(key)
    yield from open_events.values()


def parse_event(lines: list[str]) -> dict[str, Any] | None:
    """Parse the lines of one event; None if one of them isn't auditd's.

    `{"time", "serial", "node", "records": [{"type", …fields}], "keys", "arguments", "paths",
    "peer"}`; values for nothing, such as `?` and `(null)`, are left out. `keys` are all keys of the
    rule, `arguments` those of EXECVE as one text, `paths` the names of PATH joined with the working
    directory, and `peer` is the address that a socket call names.
    """
    matches = [_match_line(line) for line in lines]
    if not matches or matches[0] is None:
        return None
    first = matches[0]
    records = [
        {**_fields(match["type"], match["fields"]), "type": match["type"]}
        for match in matches
        if match is not None and match["type"] != "EOE"
    ]
    if len(records) < sum("type=EOE " not in line for line in lines):
        return None
    unix_us = (int(first["seconds"]) * 1_000 + int(first["millis"])) * 1_000
    event = {
        "time": format_time(unix_us),
        "serial": first["serial"],
        "records": records,
        "node": first["node"],
        "keys": [key for record in records for key in record.get("key", "").split("\1") if key],
        "arguments": " ".join(_arguments(records)),
        "paths": list(_paths(records)),
        "peer": next((_peer(each["saddr"]) for each in records if "saddr" in each), None),
    }
    return {name: value for name, value in event.items() if value}


def _arguments(records: list[dict[str, str]]) -> Iterator[str]:
    """Yield the arguments of EXECVE in order.

    A long one comes in parts, `a1[0]` and `a1[1]`, which may stand in several records.
    """
    found = {
        name: value
        for record in records
        if record["type"] == "EXECVE"
        for name, value in record.items()
        if _is_argument(name)
    }
    names = sorted(found, key=lambda name: [int(number) for number in re.findall("[0-9]+", name)])
    for _, group in groupby(names, lambda name: name.partition("[")[0]):
        yield shlex.quote(_join_parts([found[name] for name in group]))


def _join_parts(parts: list[str]) -> str:
    """The text of an argument. Hexadecimal is joined first: a part may end inside a character."""
    if len(parts) == 1 or not all(map(_is_hex, parts)):
        return "".join(part.strip('"') for part in parts)
    return _decode_hex("".join(parts))


def _paths(records: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    directory = next((record["cwd"] for record in records if "cwd" in record), "")
    for record in records:
        if record["type"] == "PATH" and "name" in record:
            yield {**record, "name": posixpath.normpath(posixpath.join(directory, record["name"]))}


def _peer(saddr: str) -> dict[str, str] | None:
    """Decode a `sockaddr` in hexadecimal: IPv4 with its port, IPv6, or the path of a socket.

    The family is in the byte order of the host, which is little-endian here; so only its low byte
    is read. Source: sockaddr(3type).
    """
    if not _is_hex(saddr):
        return None
    raw = bytes.fromhex(saddr)
    match raw[0]:
        case 1:
            path = raw[2:].lstrip(b"\0").partition(b"\0")[0].decode(errors="replace")
            return {"path": path} if path else None
        case 2 if len(raw) >= IPV4_BYTES:
            return {"ip": str(IPv4Address(raw[4:8])), "port": str(int.from_bytes(raw[2:4], "big"))}
        case 10 if len(raw) >= IPV6_BYTES:
            return {"ip": str(IPv6Address(raw[8:24])), "port": str(int.from_bytes(raw[2:4], "big"))}
    return None


def _fields(of_type: str, text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    inside: list[dict[str, str]] = []
    named: set[str] = set()
    end = 0
    words: list[str] = []
    for match in _find_fields(text):
        words.append(text[end : match.start()])
        end = match.end()
        name, value = match[1], match[2]
        if value.startswith("'"):
            inside.append(_fields(of_type, value[1:-1]))
            continue
        named.add(name)
        if (value := _value(of_type, name, value)) not in _ABSENT or (
            name in _NUMBERS and value == "-1"
        ):
            fields.setdefault(name, value)
    # A program can't override the kernel's fields, also where they say nothing as for a daemon's
    # `auid`, nor the names that auditd adds: a container may write such messages too.
    for members in inside:
        for name, value in members.items():
            if name not in named and not name.isupper():
                fields.setdefault(name, value)
    between = " ".join(" ".join([*words, text[end:]]).split())
    return {**fields, "text": between} if between else fields


def _value(of_type: str, name: str, value: str) -> str:
    is_argument = of_type == "EXECVE" and _is_argument(name)
    if is_argument and name.endswith("]"):
        return value  # With its quotes, until all parts are there.
    if value.startswith('"'):
        return value[1:-1]
    return _decode_hex(value) if (is_argument or name in _TEXTS) and _is_hex(value) else value


def _decode_hex(value: str) -> str:
    return bytes.fromhex(value).decode(errors="replace").replace("\0", " ").rstrip()
