"""Erasable fields: the leaf holds a commitment, and the value is kept outside the tree.

    {"context": {"patient": {"commitment": "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}}}

The commitment is the SHA-256, in base64url without padding, of the RFC 8785 JSON of

    ["<salt, base64url>", "/context/patient", <value>]

with a salt of 32 random bytes, and as path the JSON Pointer (RFC 6901) of the field in the event.
Anyone who has salt and value can check it. Without them it reveals nothing, however few values are
possible.

In fields that hold only a text (`reason`, `source.user_agent`, and the `name` of actor and targets)
the commitment is the text `commitment.47DEQ…`. The other fields of the schema can't be erasable.

An **opening** proves one commitment: path, subject, salt, value. A client makes both and sends the
event with its openings beside it, so it knows the leaf:

    {"event": {…}, "private": [{"path": "/context/patient", "subject": "u_12345",
                                "salt": "…", "value": {"name": "…"}}]}
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Generic, NamedTuple, Self, TypeVar

import msgspec
import rfc8785
from msgspec import Meta

from ledger_core.event.diagnostics import parse_json
from ledger_core.event.model import EventError, Id, whole_text
from ledger_core.event.reader import Reader, ReadEvent

_Event = TypeVar("_Event")

SALT_BYTES: Final = 32
VALUE_BYTES_MAX: Final = 16_384
OPENINGS_MAX: Final = 32
_ENVELOPE_BYTES_MAX: Final = 1 << 20
_DEPTH_MAX: Final = 64
HASH_CHARS: Final = 43
_TEXT_PREFIX: Final = "commitment."
_FIELD: Final = "commitment"
_FREE_AT: Final = re.compile(r"/context/.*|/changes/[0-9]+/(?:before|after)(?:/.*)?", re.DOTALL)
_TEXT_AT: Final = re.compile(
    r"/reason|/source/user_agent|/actor(?:/on_behalf_of)?/name|/targets/[0-9]+/name"
)
_is_hash: Final = re.compile(rf"[A-Za-z0-9_-]{{{HASH_CHARS}}}").fullmatch
_looks_enveloped: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"(?:event|private)"[ \t\r\n]*:').match


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The opening of one commitment. Its repr has no value and no salt, so no message has them."""

    path: Annotated[str, Meta(max_length=4096)]
    subject: Id
    salt: Annotated[str, whole_text(rf"[A-Za-z0-9_-]{{{HASH_CHARS}}}")]
    value: Any

    def __repr__(self) -> str:
        return f"Opening(path={self.path!r})"

    @property
    def commitment(self) -> str:
        """The commitment. Raises: EventError for a value that is too long or not JSON."""
        return commitment_to(salt=decode_salt(self.salt), path=self.path, value=self.value)


class Private:
    """A value that an application marks as erasable; its repr does not show it."""

    __slots__ = ("subject", "value")

    is_used: ClassVar[bool] = False
    """Whether this process ever made one. Without one, events are not searched for them."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        # Not in `__init__`, which unpickling does not call.
        Private.is_used = True
        return super().__new__(cls)

    def __init__(self, value: Any, subject: str) -> None:
        self.value = value
        self.subject = subject

    def __repr__(self) -> str:
        return "private(…)"


class PrivateEvent(ReadEvent, frozen=True):
    """An event with the openings of its commitments, each checked."""

    openings: tuple[Opening, ...]


class Commitment(NamedTuple):
    """A commitment and its path."""

    path: str
    hash: str


def commitment_to(*, salt: bytes, path: str, value: Any) -> str:
    """Compute the commitment to a value. Raises: EventError if it is too long or not JSON."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"want a salt of {SALT_BYTES} bytes, got {len(salt)}")
    try:
        value_json = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError, TypeError):
        raise _refuse(path, "a private value is JSON, its numbers within ±(2^53−1)") from None
    if (got := len(value_json)) > VALUE_BYTES_MAX:
        what, unit = "a private value has", "bytes of JSON"
        raise EventError.exceeds(what, unit, got, VALUE_BYTES_MAX, rule="too-long", field=path)
    head = rfc8785.dumps([encode_salt(salt), path])
    return encode_salt(hashlib.sha256(b"%b,%b]" % (head[:-1], value_json)).digest())


def commit_private(
    event: Mapping[str, Any], make_salt: Callable[[], bytes]
) -> tuple[dict[str, Any], tuple[Opening, ...]]:
    """Replace the values marked `Private` by commitments; return their openings too.

    `make_salt` returns 32 random bytes. Raises: EventError for a field that can't be private.
    """
    openings: list[Opening] = []

    def copy(value: Any, path: str, depth: int) -> Any:
        if isinstance(value, Private):
            salt = encode_salt(make_salt())
            opening = _convert({"path": path, "subject": value.subject, "salt": salt}, value.value)
            openings.append(opening)
            return _shown(path, opening.commitment)
        if depth > _DEPTH_MAX:
            return value
        if isinstance(value, Mapping):
            return {
                key: copy(member, f"{path}/{_escape(key)}", depth + 1)
                for key, member in value.items()
            }
        if isinstance(value, list | tuple):
            return [copy(item, f"{path}/{at}", depth + 1) for at, item in enumerate(value)]
        return value

    hidden: dict[str, Any] = copy(dict(event), "", 0)
    _check_count(len(openings))
    return hidden, tuple(openings)


def holds_private(value: object, depth: int = 0) -> bool:
    """Tell whether an object holds a value marked `Private` at any depth."""
    if not Private.is_used:
        return False
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return isinstance(value, Private)
    return depth < _DEPTH_MAX and any(
        type(member) is not str and holds_private(member, depth + 1) for member in value
    )


def may_be_private(path: str) -> bool:
    """Tell whether a JSON Pointer may hold a commitment; a `*` in it is any key or position."""
    sample = re.sub(r"/\*(?=/|$)", "/0", path)
    return bool(_FREE_AT.fullmatch(sample) or _TEXT_AT.fullmatch(sample))


def is_commitment(value: object) -> bool:
    """Tell whether a value is a commitment, in either of its forms."""
    found: object = value
    if isinstance(value, dict):
        found = value[_FIELD] if value.keys() == {_FIELD} else None
    elif isinstance(value, str):
        found = value.removeprefix(_TEXT_PREFIX) if value.startswith(_TEXT_PREFIX) else None
    return isinstance(found, str) and bool(_is_hash(found))


def find_commitments(event: Mapping[str, Any]) -> Iterator[Commitment]:
    """Find the commitments in an event, given as decoded JSON, in the fields that may hold them."""
    waiting: list[tuple[str, Any]] = [("", event)]
    while waiting:
        path, value = waiting.pop()
        found = _commitment_at(path, value)
        if found is not None:
            yield Commitment(path, found)
        else:
            waiting += [(f"{path}/{key}", member) for key, member in _members(value)]


def check_openings(event: Mapping[str, Any], openings: Sequence[Opening]) -> None:
    """Check openings against an event as decoded JSON. Raises: EventError if one opens nothing."""
    _check_count(len(openings))
    expected = {found.path: found.hash for found in find_commitments(event)}
    for opening in openings:
        want = expected.pop(opening.path, "")
        if not hmac.compare_digest(opening.commitment, want):
            raise _refuse(opening.path, "does not open a commitment that stands there")


Found = tuple[str, tuple[str, ...], Any]
"""The path of a value, what the stars of a pattern stand for, and the value."""


def find_values(event: Any, pattern: str, *, stars: Sequence[str] = ()) -> Iterator[Found]:
    """Find the values at a JSON Pointer in which `*` is any key or position.

    The first of its stars are the given keys. Costs a look at each member on the way.
    """
    left = iter(stars)
    waiting: list[Found] = [("", (), event)]
    for segment in pattern.split("/")[1:]:
        is_star = segment == "*"
        wanted = next(left, None) if is_star else segment
        waiting = [
            (f"{at}/{key}", (*found, key) if is_star else found, member)
            for at, found, value in waiting
            for key, member in _members(value)
            if wanted is None or key == wanted
        ]
    yield from waiting


def find_at(event: Any, path: str) -> Iterator[Found]:
    """The one value at a JSON Pointer, or none; a `*` in it is a key like any other."""
    return find_values(event, path, stars=["*"] * path.count("*"))


def replace_at(event: dict[str, Any], path: str, commitment: str) -> None:
    """Replace the value at a JSON Pointer by its commitment. The event is changed in place.

    Raises: EventError if nothing is there, or the field can't be private.
    """
    shown = _shown(path, commitment)
    *parents, last = path.split("/")
    for _, _, parent in find_at(event, "/".join(parents)):
        if isinstance(parent, dict):
            parent[last.replace("~1", "/").replace("~0", "~")] = shown
        else:
            parent[int(last)] = shown
        return
    raise _refuse(path, "nothing stands here")


def erasure_event(
    *,
    subject: str,
    reason: str,
    actor: Mapping[str, str],
    values: int,
    tree_size: int,
    event_id: str,
    time: str,
) -> dict[str, Any]:
    """Make the event that records the erasure of a subject.

    `tree_size`: of the log, before anything is erased. Each value of an entry below it is
    destroyed. The event is logged later, and values may come in between, which are new ones.
    """
    return {
        "id": event_id,
        "time": time,
        "actor": dict(actor),
        "action": "ledger.private.erased",
        "targets": [{"type": "ledger.subject", "id": subject}],
        "outcome": "success",
        "reason": reason,
        "context": {"values": values, "tree_size": tree_size},
    }


class PrivateReader(Reader):
    """Reads events with openings beside them, and events without as `Reader` does."""

    __slots__ = ()

    def read(self, raw: bytes) -> ReadEvent:
        """Read one event from JSON. Raises: EventError, also for an opening that opens nothing."""
        if not _looks_enveloped(raw):
            return Reader.read(self, raw)
        if (got := len(raw)) > (most := _ENVELOPE_BYTES_MAX):
            what = "an event with its private values has"
            raise EventError.exceeds(what, "bytes", got, most, rule="leaf-too-large", field="")
        parse_json(raw, read_object=_check_repeated)
        try:
            envelope = msgspec.json.decode(raw, type=_Envelope[msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise _refuse("", "want event and private, and nothing else") from None
        return self._opened(super().read(bytes(envelope.event)), envelope.private)

    def read_object(self, value: Mapping[str, Any]) -> ReadEvent:
        """Read one event from a decoded object. Raises: as `read`."""
        if not isinstance(value, Mapping) or "event" not in value or "private" not in value:
            return super().read_object(value)
        try:
            envelope = msgspec.convert(value, _Envelope[dict[str, Any]])
        except (msgspec.ValidationError, RecursionError):
            raise _refuse("", "want event and private, and nothing else") from None
        return self._opened(super().read_object(envelope.event), envelope.private)

    def _opened(self, read: ReadEvent, openings: tuple[Opening, ...]) -> ReadEvent:
        check_openings(msgspec.json.decode(read.event_json), openings)
        return PrivateEvent(read.event, read.event_json, read.id_bytes, read.filled, openings)


def format_envelope(event_json: bytes, openings: Sequence[Opening]) -> bytes:
    """Write an event and its openings as they are sent."""
    return b'{"event":%b,"private":%b}' % (event_json, msgspec.json.encode(openings))


def encode_salt(salt: bytes) -> str:
    """Write a salt, or a hash, as text: base64url without padding."""
    return urlsafe_b64encode(salt).rstrip(b"=").decode()


def decode_salt(text: str) -> bytes:
    """Read a salt from a text of 43 characters. Raises: ValueError."""
    return urlsafe_b64decode(f"{text}=")


class _Envelope(msgspec.Struct, Generic[_Event], forbid_unknown_fields=True):
    event: _Event
    private: tuple[Opening, ...]


def _convert(members: dict[str, Any], value: Any) -> Opening:
    try:
        return msgspec.convert({**members, "value": value}, Opening)
    except msgspec.ValidationError:
        raise _refuse(members["path"], "a subject is an id of 1 to 256 characters") from None


def _shown(path: str, hash_: str) -> dict[str, str] | str:
    if _FREE_AT.fullmatch(path):
        return {_FIELD: hash_}
    if _TEXT_AT.fullmatch(path):
        return _TEXT_PREFIX + hash_
    raise _refuse(path, "nothing private may stand here, only in context, changes, names, reason")


def _commitment_at(path: str, value: object) -> str | None:
    if not is_commitment(value):
        return None
    if isinstance(value, str):
        return value.removeprefix(_TEXT_PREFIX) if _TEXT_AT.fullmatch(path) else None
    return str(value[_FIELD]) if isinstance(value, dict) and _FREE_AT.fullmatch(path) else None


def _check_repeated(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise EventError("a key stands twice in one object", rule="repeated-key")


def _check_count(count: int) -> None:
    if count > OPENINGS_MAX:
        what, unit = "an event has", "private values"
        raise EventError.exceeds(what, unit, count, OPENINGS_MAX, rule="too-many", field="private")


def _refuse(path: str, message: str) -> EventError:
    return EventError(message, rule="private", field=path or "private")


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((_escape(key), member) for key, member in value.items())
    elif isinstance(value, list):
        yield from ((str(at), item) for at, item in enumerate(value))


def _escape(key: object) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")
