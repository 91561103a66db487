"""Events of Windows in XML: found in a file, and parsed.

    <Event xmlns="…"><System><Provider Name="Microsoft-Windows-Security-Auditing"/>
    <EventID>4625</EventID>…</System><EventData><Data Name="TargetUserName">jo</Data>…

Event Viewer saves them inside `<Events>`, `wevtutil` prints one after another. Each is parsed by
itself, so a damaged one takes no other with it.
"""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO
from xml.etree import ElementTree as ET

from ledger_core.tlog.errors import MalformedError

CHUNK_BYTES = 64 * 1024
DEPTH_MAX = 16

_END = b"</Event>"
# No `<` within: what is never closed would be read to the end from each place where it begins.
_AROUND = re.compile(rb"<\?xml[^<>]*\?>|</?Events(?:\s[^<>]*)?>|\s+")
_find_start = re.compile(rb"<Event[\s>]").search


def read_events(plain: BinaryIO, bytes_max: int) -> Iterator[tuple[int, bytes]]:
    """Yield the text of each event, and the line where it starts; other text as it is.

    Raises: MalformedError for an event that is too long.
    """
    number, held, seen = 1, bytearray(), 0
    while chunk := plain.read(CHUNK_BYTES):
        held += chunk
        while (end := held.find(_END, seen)) >= 0:
            part = bytes(held[: end + len(_END)])
            del held[: len(part)]
            seen = 0
            yield from _parts(part, number)
            number += part.count(b"\n")
        if len(held) > bytes_max:
            raise MalformedError(f"line {number}: an event has more than {bytes_max} bytes")
        # The end may be in two chunks.
        seen = max(0, len(held) - len(_END))
    yield from _parts(bytes(held), number)


def _parts(text: bytes, number: int) -> Iterator[tuple[int, bytes]]:
    start = _find_start(text)
    at = start.start() if start else len(text)
    before = text[:at]
    if other := _AROUND.sub(b" ", before).strip():
        yield number + before[: len(before) - len(before.lstrip())].count(b"\n"), other
    if start:
        yield number + text.count(b"\n", 0, at), text[at:]


def parse_xml(text: str) -> dict[str, Any] | None:
    """Parse one event; None for anything else.

    `{"System": {"TimeCreated": {"SystemTime": …}, …}, "id": "4625", "data": {…}}`. Attributes are
    members, `id` is the number of the event, and `data` is what `EventData` names, or the first
    element of `UserData`.
    """
    # Entities of a document's own can grow without end; an event has no document type.
    if "<!DOCTYPE" in text:
        return None
    try:
        root = ET.fromstring(text)  # noqa: S314 - without a document type it can't grow
        parsed = _members(root, DEPTH_MAX)
    except (ET.ParseError, ValueError):
        return None
    if not isinstance(parsed, dict) or _name(root) != "Event":
        return None
    user_data = parsed.get("UserData")
    first = next(iter(user_data.values()), None) if isinstance(user_data, dict) else None
    number = root.findtext("{*}System/{*}EventID") or ""
    if isinstance(system := parsed.get("System"), dict):
        system.pop("EventID", None)
    others = {name: parsed[name] for name in parsed if name not in ("EventData", "UserData")}
    return {**others, "id": number.strip(), "data": parsed.get("EventData") or first}


def _members(element: ET.Element, depth: int) -> Any:
    """Return an element as an object, or as its text if it has neither attributes nor children.

    Raises: ValueError if it nests too deep.
    """
    if not depth:
        raise ValueError("too deep")
    members: dict[str, Any] = dict(element.attrib)
    repeated: set[str] = set()
    for child in element:
        name, value = _name(child), _members(child, depth - 1)
        if name == "Data" and isinstance(value, dict) and "Name" in value:
            name, value = value["Name"], value.get("text", "")
        if name in repeated:
            members[name].append(value)
        elif name in members:
            members[name] = [members[name], value]
            repeated.add(name)
        else:
            members[name] = value
    text = (element.text or "").strip()
    if not members:
        return text
    return {**members, "text": text} if text else members


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]
