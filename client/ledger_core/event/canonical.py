"""The canonical bytes of an event, which are hashed, and the canonical texts inside it.

The **leaf** is the RFC 8785 JSON of

    {"event": {…}, "received": {"by": "billing-api", "time": "2026-11-25T02:03:36.130001Z"}, "v": 1}

at most 65,535 bytes long. Before that, the texts of an event get one form each:

* a time becomes UTC with six decimals and a `Z`; digits beyond the sixth are cut off, not rounded;
* an address becomes the text of Python's `ipaddress`, IPv4-mapped IPv6 unwrapped;
* the event's id becomes lower case.

All other strings are kept exactly as they arrived.

`plain` encodes most events in under a microsecond; the others take the `rfc8785` package, forty
times slower.

Decoding is fast in the same way: it detects cheaply that something may be wrong, and then
`diagnostics` reads the input a second time and names the fault.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, Literal, NamedTuple

import msgspec
import rfc8785
from msgspec import UNSET
from msgspec.structs import force_setattr

from ledger_core.event.diagnostics import check_json, check_object
from ledger_core.event.ids import is_uuid
from ledger_core.event.model import ACTION_PATTERN, LIMITS, Event, EventError, Received
from ledger_core.event.plain import (
    encode_plain,
    encode_sorted,
    holds_nul,
    is_plain_event,
    kept_all_keys,
)
from ledger_core.event.times import format_time, is_canonical_time, parse_time
from ledger_core.tlog.errors import MalformedError

LEAF_BYTES_MAX = LIMITS["leaf"].most
INPUT_BYTES_MAX = LIMITS["input"].most

_EVENT_START = len(b'{"event":')

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# The common case in a fifth of the time that `ipaddress` takes to parse it and print it again.
IPV4_PATTERN = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_is_canonical_ipv4 = re.compile(IPV4_PATTERN).fullmatch
# A log has a few hundred actions.
is_action = lru_cache(maxsize=4096)(re.compile(ACTION_PATTERN).fullmatch)
"""Whether a text is an action."""

_has_port = re.compile(r"[0-9.]+:[0-9]+|\[.*\](?::[0-9]+)?").fullmatch


class Leaf(NamedTuple):
    """The content of a leaf; `event_json` is the bytes of its event."""

    event: Event
    received: Received
    event_json: bytes


class _LeafFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    event: msgspec.Raw
    received: Received
    v: Literal[1]


class WholeLeaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A leaf as JSON has it, unchecked."""

    event: Event
    received: Received
    v: Literal[1]


_decode = msgspec.json.Decoder(Event).decode
_decode_leaf = msgspec.json.Decoder(_LeafFields).decode
_decode_whole_leaf = msgspec.json.Decoder(WholeLeaf).decode

NOT_A_LEAF = (msgspec.MsgspecError, UnicodeError, TypeError, RecursionError)
"""What a fast parse raises for bytes that it can't read."""


# The same few thousand addresses come back all day, and `ipaddress` takes 3 to 8 µs for one.
@lru_cache(maxsize=16_384)
def canonical_ip(text: str, *, field: str = "source.ip") -> str:
    """Give an IPv4 or IPv6 address its one text, IPv4-mapped IPv6 unwrapped.

    Raises: EventError (rule "address") for `field`.
    """
    if _is_canonical_ipv4(text):
        return text
    if _has_port(text):
        message = "want an address without brackets and port; the port goes into source.port"
    elif "%" in text:
        message = "has a zone, which means nothing on another host"
    else:
        try:
            address = ip_address(text)
        except ValueError:
            message = "not an IPv4 or IPv6 address"
        else:
            return str((isinstance(address, IPv6Address) and address.ipv4_mapped) or address)
    raise EventError(message, rule="address", field=field)


def decode_event(raw: bytes) -> tuple[Event, bytes]:
    """Check one event; return it in canonical form, and its RFC 8785 JSON. Raises: EventError."""
    if len(raw) > INPUT_BYTES_MAX:
        raise _too_large(len(raw))
    try:
        event = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        check_json(raw)
        raise EventError("not an event", rule="wrong-type") from error
    colons_added = _make_canonical(event)
    event_json = encode_plain(event)
    if event_json is None or not kept_all_keys(raw, event_json, colons_added):
        check_json(raw)
        event_json = event_json or encode_event(event)
    return event, _check_length(event_json)


def decode_event_object(value: Mapping[str, Any]) -> tuple[Event, bytes]:
    """Read one event from a decoded object; otherwise as `decode_event`.

    Repeated keys can't be detected here: the decoder of the value must have refused them.

    Raises: EventError.
    """
    try:
        event = msgspec.convert(value, Event)
    except (msgspec.ValidationError, RecursionError) as error:
        check_object(value)
        raise EventError("not an event", rule="wrong-type") from error
    if not _holds_only_dicts(value):
        check_object(value)
    _make_canonical(event)
    event_json = encode_plain(event)
    if event_json is None:
        check_object(value)
        event_json = encode_event(event)
    return event, _check_length(event_json)


def encode_event(event: Event) -> bytes:
    """Write an event as RFC 8785 JSON.

    Raises: ValueError when the event has a value that no checked event has.
    """
    return encode_plain(event) or rfc8785.dumps(msgspec.to_builtins(event))


class LeafFormat:
    """Writes the leaves of events that were received together; no event is encoded twice."""

    __slots__ = ("_end",)

    def __init__(self, by: str, received_time: str) -> None:
        encoded = encode_sorted(by), received_time.encode()
        self._end = b',"received":{"by":%b,"time":"%b"},"v":1}' % encoded

    def length(self, event_json: bytes) -> int:
        """The bytes of the leaf of an event, given as canonical JSON."""
        return _EVENT_START + len(event_json) + len(self._end)

    def check(self, event_json: bytes) -> None:
        """Refuse an event whose leaf is too long. Raises: EventError (rule "leaf-too-large")."""
        if self.length(event_json) > LEAF_BYTES_MAX:
            raise _too_large(self.length(event_json))

    def leaf(self, event_json: bytes) -> bytes:
        """The leaf of an event, given as canonical JSON whose leaf is not too long."""
        return b'{"event":%b%b' % (event_json, self._end)


# The events of a request are received together.
leaf_format = lru_cache(maxsize=64)(LeafFormat)


def format_leaf(*, event_json: bytes, by: str, received_time: str) -> bytes:
    """Write a leaf from canonical parts.

    Raises: EventError (rule "leaf-too-large") beyond 65,535 bytes.
    """
    form = leaf_format(by, received_time)
    form.check(event_json)
    return form.leaf(event_json)


def parse_leaf(leaf: bytes) -> Leaf:
    """Read a leaf strictly: its bytes must be the ones that `format_leaf` writes.

    Raises: MalformedError.
    """
    return _read_plain_leaf(leaf) or _read_leaf(leaf)


def _read_plain_leaf(leaf: bytes) -> Leaf | None:
    """Read a leaf fast; None when it may be no leaf, or when only the strict parse can tell.

    Decoded and encoded again, most leaves are the same bytes. Then no key was repeated or out of
    order, and only the values are left to check.
    """
    try:
        whole = _decode_whole_leaf(leaf)
        if encode_sorted(whole) != leaf or holds_nul(leaf):
            return None
    except NOT_A_LEAF:
        return None
    if len(leaf) > LEAF_BYTES_MAX or not (
        has_canonical_shapes(whole) and has_plain_values(whole.event)
    ):
        return None
    return Leaf(whole.event, whole.received, event_json_of(leaf))


def event_json_of(leaf: bytes) -> bytes:
    """The bytes of the event within a leaf. Precondition: the leaf is canonical."""
    # `received` has texts alone, in which a quotation mark is escaped: the last one is the leaf's.
    return leaf[_EVENT_START : leaf.rindex(b',"received":{')]


def has_plain_values(event: Event) -> bool:
    """Whether action, address, keys and numbers are canonical for sure."""
    source = event.source
    return bool(
        is_action(event.action)
        and (source is UNSET or source.ip is UNSET or is_canonical_ip(source.ip))
        and is_plain_event(event)
    )


def has_canonical_shapes(whole: WholeLeaf) -> bool:
    """Whether id and times are there and canonical."""
    event_id, time = whole.event.id, whole.event.time
    return (
        event_id is not UNSET
        and time is not UNSET
        and bool(is_uuid(event_id))
        and is_canonical_time(time)
        and is_canonical_time(whole.received.time)
    )


def _read_leaf(leaf: bytes) -> Leaf:
    """Read a leaf and name what is wrong with it. Raises: MalformedError."""
    try:
        fields = _decode_leaf(leaf)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedError("not a leaf: want event, received and v, and v is 1") from None
    event, event_json = decode_event(bytes(fields.event))
    received = fields.received
    if event.id is UNSET or event.time is UNSET:
        raise MalformedError("not a leaf: its event has no id, or no time")
    again = format_leaf(event_json=event_json, by=received.by, received_time=received.time)
    if again != leaf or not is_canonical_time(received.time):
        raise MalformedError("not a leaf: its bytes are not in canonical form")
    return Leaf(event, received, event_json)


def _make_canonical(event: Event) -> int:
    """Make the texts of a freshly decoded event canonical; return how many colons that added.

    The event is changed in place: only the caller has it, and a copy costs twice as much.
    """
    if not is_action(event.action):
        message = (
            "not segments of letters, digits, _ and - joined by dots, such as user.role_changed"
        )
        raise EventError(message, rule="action", field="action")
    colons_added = 0
    event_id, time, source = event.id, event.time, event.source
    if event_id is not UNSET and not is_uuid(event_id):
        lowered = event_id.lower()
        if not is_uuid(lowered):
            message = "not a UUID, such as 0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50"
            raise EventError(message, rule="id", field="id")
        force_setattr(event, "id", lowered)
    if time is not UNSET and not is_canonical_time(time):
        canonical_time = format_time(parse_time(time))
        force_setattr(event, "time", canonical_time)
        colons_added += canonical_time.count(":") - time.count(":")
    if source is not UNSET and source.ip is not UNSET:
        ip = canonical_ip(source.ip)
        if ip != source.ip:
            colons_added += ip.count(":") - source.ip.count(":")
            force_setattr(source, "ip", ip)
    return colons_added


_OBJECTS = ("source", "recorder")
_LISTS = ("targets", "changes")


@lru_cache(maxsize=16_384)
def is_canonical_ip(text: str) -> bool:
    """Whether a text is the one text of an IPv4 or IPv6 address."""
    with suppress(EventError):
        return canonical_ip(text) == text
    return False


def _holds_only_dicts(value: Mapping[str, Any]) -> bool:
    """Tell whether each part of an event is a dict; msgspec accepts structs without a check."""
    actor = value["actor"] if type(value) is dict else None
    if type(actor) is not dict:
        return False
    if "on_behalf_of" in actor and type(actor["on_behalf_of"]) is not dict:
        return False
    for name in _OBJECTS:
        if name in value and type(value[name]) is not dict:
            return False
    for name in _LISTS:
        if name in value:
            for part in value[name]:
                if type(part) is not dict:
                    return False
    return True


def _check_length(encoded: bytes) -> bytes:
    if len(encoded) > LEAF_BYTES_MAX:
        raise _too_large(len(encoded))
    return encoded


def _too_large(got: int) -> EventError:
    what, unit = "the event makes a leaf of", "bytes or more"
    return EventError.exceeds(what, unit, got, LEAF_BYTES_MAX, rule="leaf-too-large", field="")
