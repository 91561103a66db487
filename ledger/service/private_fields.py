"""Erasable fields in the service: values kept before their event is logged, and opened for readers.

    private.toml    [[fields]]                       fields that the service itself commits to
                    path = "/targets/*/name"         a JSON Pointer; `*` is any key or position
                    subject = "/targets/*/id"        whose value it is

The salt of such a field is derived from the subject's key, the event's id and the path. So an event
that is sent again becomes the same leaf again, and the salt vanishes with the key.
"""

import hashlib
import tomllib
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from ledger.service.altered import AlteredEvent
from ledger.store.erasable_values import PrivateStore
from ledger_core.api import Committed
from ledger_core.event.canonical import decode_event_object
from ledger_core.event.commitments import (
    SALT_BYTES,
    Opening,
    PrivateEvent,
    encode_salt,
    fill_stars,
    find_commitments,
    find_values,
    is_commitment,
    may_be_private,
    replace_at,
)
from ledger_core.event.model import EventError
from ledger_core.event.reader import ReadEvent
from ledger_core.tlog.errors import MalformedError

_Pointer = Annotated[str, Meta(pattern="^(/[^/]+)+$", max_length=4096)]
_decode = msgspec.json.Decoder(dict).decode


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field that the service commits to, and where its subject's id stands."""

    path: _Pointer
    subject: _Pointer


class _File(msgspec.Struct, forbid_unknown_fields=True):
    fields: tuple[Field, ...] = ()


class PrivateFields:
    """What the service does with private values."""

    def __init__(self, store: PrivateStore, fields: Sequence[Field]) -> None:
        self.store: Final = store
        self._fields = tuple(fields)

    def is_concerned(self, read: ReadEvent) -> bool:
        """Whether `settle` has anything to do with an event."""
        return bool(self._fields) or (isinstance(read, PrivateEvent) and bool(read.openings))

    def settle(self, reads: Sequence[ReadEvent]) -> list[ReadEvent | EventError]:
        """Commit to the fields of the settings, and keep all openings, durably.

        For a thread of its own: it waits for the disk.
        Raises: as `PrivateStore.put`, with nothing kept.
        """
        settled: list[ReadEvent | EventError] = []
        openings: list[Opening] = []
        for read in reads:
            try:
                hidden, own = self._hide(read)
            except EventError as error:
                settled.append(error)
                continue
            settled.append(hidden)
            openings += own
        if openings:
            self.store.put(openings)
        return settled

    def open(self, event_json: bytes) -> tuple[Opening, ...]:
        """What opens the commitments of a stored event, as far as it was not erased."""
        found = find_commitments(_decode(event_json))
        openings = (self.store.find(commitment) for commitment in found)
        return tuple(opening for opening in openings if opening is not None)

    def _hide(self, read: ReadEvent) -> tuple[ReadEvent, list[Opening]]:
        """The event with commitments where the settings want them, and all its openings.

        Raises: EventError.
        """
        event: dict[str, Any] | None = None
        sent = list(read.openings) if isinstance(read, PrivateEvent) else []
        openings: list[Opening] = []
        for field in self._fields:
            event = _decode(read.event_json) if event is None else event
            for path, stars, value in list(find_values(event, field.path)):
                if is_commitment(value):
                    continue
                subject = _subject_of(event, fill_stars(field.subject, stars), path)
                salt = _salt(self.store.subject_key(subject), str(read.event.id), path)
                opening = Opening(path, subject, encode_salt(salt), value)
                openings.append(opening)
        if event is None or not openings:
            return read, sent
        for opening in openings:
            replace_at(event, opening.path, opening.commitment)
        hidden, event_json = decode_event_object(event)
        committed = tuple(Committed(path=each.path, salt=each.salt) for each in openings)
        altered = AlteredEvent(
            event=hidden,
            event_json=event_json,
            id_bytes=read.id_bytes,
            filled=read.filled,
            openings=(),
            masked=read.masked if isinstance(read, AlteredEvent) else (),
            committed=committed,
        )
        return altered, [*sent, *openings]


def parse_fields(text: str) -> tuple[Field, ...]:
    """The fields of a private.toml. Raises: MalformedError."""
    try:
        fields = msgspec.convert(tomllib.loads(text), _File).fields
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise MalformedError(f"private.toml: {error}") from None
    for field in fields:
        if not may_be_private(field.path):
            raise MalformedError(f"private.toml: nothing private may stand at {field.path}")
    return fields


def _subject_of(event: dict[str, Any], pointer: str, path: str) -> str:
    for _, _, value in find_values(event, pointer):
        if isinstance(value, str) and value:
            return value
    raise EventError(
        "private by the service's settings, but nothing says whose it is",
        rule="private",
        field=path,
    )


def _salt(key: bytes, event_id: str, path: str) -> bytes:
    return hashlib.blake2b(
        f"{event_id}{path}".encode(), key=key, digest_size=SALT_BYTES, person=b"wl/private-salt"
    ).digest()
