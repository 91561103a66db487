"""Maps syslog messages to events.

| event | from the message |
|---|---|
| `time` | its TIMESTAMP; if that is missing or can't be read, the listener's clock, noted |
| `action` | `syslog.`, the facility, and the MSGID if it has one: `syslog.local0.ID47` |
| `actor` | the host that it names, of type `host`, else the sender's address |
| `actor.session` | its PROCID |
| `actor.credential` | `sha256:` and the fingerprint of the sender's client certificate |
| `source` | the sender's address and port: those of a relay, if there is one |
| `source.service` | its APP-NAME |
| `reason` | its text |
| `outcome` | `unknown`: syslog has no place for it |
| `context` | `facility`, `severity`, `structured_data`; `message` where `reason` had to be cut |
| `context.message` | cut if a leaf has no room: JSON has six bytes for a control character |
| `context.balancer` | the address of the balancer that named the sender |
| `context.import_notes` | each value that had to be changed |

Weak: a sender over plain TCP or UDP can write any host's name into a message. The listener verifies
only `source.ip` (TCP) and, with client certificates, `actor.credential`.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ledger_client.collect.syslog.framing import Frame
from ledger_client.collect.syslog.message import Message, parse_message
from ledger_client.collect.times import read_time
from ledger_core.event.canonical import LEAF_BYTES_MAX
from ledger_core.event.model import LIMITS
from ledger_core.event.times import format_time
from ledger_core.event.truncation import Fitter, without_empty

FREE_BYTES: Final = 4096
"""Left in the leaf for notes, and for what recorder and service add."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The sender of messages, as its connection shows it."""

    ip: str
    port: int
    balancer: str = ""
    """The address of the balancer that names `ip` and `port`; "" without one."""
    fingerprint: str = ""
    """The SHA-256 of the sender's certificate in hexadecimal; "" without one."""


def map_frame(frame: Frame, *, peer: Peer, received_unix_us: int) -> dict[str, Any]:
    """Map a message to an event without an id: nothing in syslog identifies a repeated message."""
    message = parse_message(frame.data)
    fitter = Fitter()
    fitter.notes.extend(message.notes)
    for is_noted, note in (
        (frame.bytes_cut, f"cut, {frame.bytes_cut} bytes more were sent"),
        (frame.is_broken_off, "the connection ended inside it"),
        (frame.is_unframed, "no count of octets before it, so the connection was closed"),
    ):
        if is_noted:
            fitter.note("message", note)
    source = {
        "ip": peer.ip,
        "port": peer.port,
        "service": fitter.id(message.app, field="source.service"),
    }
    reason = fitter.text(message.text, field="reason", chars_max=LIMITS["reason"].most)
    whole = message.text if len(message.text) > LIMITS["reason"].most else ""
    action = ("syslog", message.facility, message.message_id.replace(".", "_"))
    event = {
        "time": _time(message, fitter, received_unix_us),
        "action": fitter.action(".".join(part for part in action if part)),
        "actor": _actor(message, peer, fitter),
        "source": without_empty(source),
        "outcome": "unknown",
        "reason": reason,
    }
    context = {
        "facility": message.facility,
        "severity": message.severity,
        "balancer": peer.balancer,
        "structured_data": fitter.value(message.structured_data, field="context.structured_data"),
        "import_notes": fitter.notes,
    }
    room = LEAF_BYTES_MAX - FREE_BYTES - _json_bytes([event, context])
    if room < 0:
        room += _json_bytes(context.pop("structured_data"))
        whole = frame.data.decode(errors="backslashreplace")
        fitter.note("context.structured_data", "too large, it is in the message")
    context["message"] = _cut(fitter.value(whole, field="context.message"), room, fitter)
    return without_empty({**event, "context": without_empty(context)})


def _json_bytes(value: Any) -> int:
    return len(msgspec.json.encode(value))


def _cut(text: str, bytes_max: int, fitter: Fitter) -> str:
    """The start of a text whose JSON has so many bytes."""
    if _json_bytes(text) <= bytes_max:
        return text
    fitter.note("context.message", f"cut, it has {len(text)} characters, too many for a leaf")
    lengths = range(len(text))
    return text[: bisect_right(lengths, bytes_max, key=lambda n: _json_bytes(text[:n])) - 1]


def _time(message: Message, fitter: Fitter, received_unix_us: int) -> str:
    if time := read_time(message.time):
        if time.note:
            fitter.note("time", time.note)
        return format_time(time.unix_us)
    what = "that can't be read" if message.time else "at all"
    fitter.note("time", f"the message has none {what}, this is when it was read")
    return format_time(received_unix_us)


def _actor(message: Message, peer: Peer, fitter: Fitter) -> dict[str, Any]:
    actor = fitter.principal(
        field="actor", of_id=message.host or peer.ip or "unknown", of_type="host", name=""
    )
    actor["session"] = fitter.id(message.process, field="actor.session")
    actor["credential"] = f"sha256:{peer.fingerprint}" if peer.fingerprint else ""
    return without_empty(actor)
