"""Parses syslog messages: RFC 5424 into its fields, anything else whole, with a note.

    <165>1 2026-11-25T02:03:36.003Z web-1 su 42 ID47 [origin ip="192.0.2.1"] text

A message with a mistake still records an event, so the parser is tolerant: of names that are too
long, an invalid time, structured data that doesn't end. Each mistake is noted, and no byte is
dropped. RFC 3164 has no year and no zone, and its implementations differ, so only the priority of
such a line is read. But the form in which rsyslog forwards has both, and a host:

    <38>2026-11-25T02:03:36.003456+01:00 web-1 sshd[42]: text

Source: RFC 5424 §6.
"""

import re
from dataclasses import dataclass, field
from typing import Any

FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
)  # fmt: skip
SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")

_NIL = "-"
_PRIORITY_MAX = len(FACILITIES) * len(SEVERITIES) - 1
_HEADER_FIELDS = 5
_BOM = "\ufeff"

_match_priority = re.compile(r"<(0|[1-9][0-9]{0,2})>").match
_match_forwarded = re.compile(
    r"(?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9:]{2,5})) (?P<host>[!-~]+) "
    r"(?P<app>[^\s\[\]:]+)(?:\[(?P<process>[^\]\s]*)\])?: ?(?P<text>.*)",
    re.DOTALL,
).match
_match_element = re.compile(r"\[([^ =\]\"]+)").match
# A value that has a bare `]` is not well-formed, but its end is still unambiguous.
_match_parameter = re.compile(r" ([^ =\]\"]+)=\"((?:[^\"\\]|\\.)*)\"", re.DOTALL).match
_unescape = re.compile(r"\\([\"\\\]])").sub

StructuredData = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A parsed message; absent fields are empty."""

    text: str
    """The text, or the whole message if it isn't RFC 5424."""
    facility: str = ""
    severity: str = ""
    time: str = ""
    host: str = ""
    app: str = ""
    process: str = ""
    message_id: str = ""
    structured_data: StructuredData = field(default_factory=dict)
    """By element and parameter; a repeated parameter has a list of its values."""
    notes: tuple[str, ...] = ()


def parse_message(data: bytes) -> Message:
    """Parse one message. Nothing is refused: a message that isn't RFC 5424 is kept whole."""
    notes: list[str] = []
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode(errors="backslashreplace")
        notes.append(r"message: not UTF-8, the bytes that are not are written as \xNN")
    priority = _match_priority(text)
    if priority is None or int(priority[1]) > _PRIORITY_MAX:
        return Message(text=text, notes=(*notes, "message: no priority, so it is kept whole"))
    numbers = divmod(int(priority[1]), len(SEVERITIES))
    facility, severity = FACILITIES[numbers[0]], SEVERITIES[numbers[1]]
    version, *fields = text[priority.end() :].split(" ", _HEADER_FIELDS + 1)
    if forwarded := _match_forwarded(text, priority.end()):
        fields_found: dict[str, Any] = forwarded.groupdict(default="")
        return Message(facility=facility, severity=severity, notes=tuple(notes), **fields_found)
    if version != "1" or len(fields) <= _HEADER_FIELDS:
        note = "message: not RFC 5424, so it is kept whole"
        return Message(text=text, facility=facility, severity=severity, notes=(*notes, note))
    *header, rest = fields
    structured_data, rest, note = _split_structured_data(rest)
    names = ("time", "host", "app", "process", "message_id")
    return Message(
        text=rest.removeprefix(_BOM),
        facility=facility,
        severity=severity,
        structured_data=structured_data,
        notes=(*notes, note) if note else tuple(notes),
        **{name: value for name, value in zip(names, header, strict=True) if value != _NIL},
    )


def _split_structured_data(text: str) -> tuple[StructuredData, str, str]:
    """Return the structured data, the text after it, and a note."""
    if text == _NIL or text.startswith(f"{_NIL} "):
        return {}, text[2:], ""
    elements: dict[str, dict[str, list[str]]] = {}
    notes = set()
    end = 0
    while element := _match_element(text, end):
        parameters = elements.setdefault(element[1], {})
        if parameters:
            notes.add("structured_data: an element stands twice, and is one here")
        end = element.end()
        while parameter := _match_parameter(text, end):
            parameters.setdefault(parameter[1], []).append(_unescape(r"\1", parameter[2]))
            end = parameter.end()
        if text[end : end + 1] != "]":
            break
        end += 1
    else:
        if end and text[end : end + 1] in ("", " "):
            data: StructuredData = {
                name: {each: values if values[1:] else values[0] for each, values in of.items()}
                for name, of in elements.items()
            }
            return data, text[end + 1 :], " ".join(sorted(notes))
    return {}, text, "structured_data: not well-formed, it is left in the message"
