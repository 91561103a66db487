"""Erasable fields in the service: their values are stored before the event is logged.

    private.toml    [[fields]]                       the fields that the service commits to
                    path = "/targets/*/name"         a JSON Pointer; `*` is any key or position
                    subject = "/targets/*/id"        the id of its subject

The salt of such a field is derived from the subject's key, the event's tenant and id, the path and
the value. So a resent event becomes the same leaf again, erasing the key destroys the salt, and the
answer tells a salt only to a sender who knows the value.
"""

import hashlib
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from ledger.store.erasable_values import DamagedValueError, PrivateStore, event_key
from ledger.store.log import DamagedBundleError
from ledger_core.api import Committed
from ledger_core.event.canonical import decode_event, decode_event_object, parse_leaf
from ledger_core.event.commitments import (
    SALT_BYTES,
    Commitment,
    Opening,
    PrivateEvent,
    commitment_to,
    encode_salt,
    find_commitments,
    find_values,
    is_commitment,
    may_be_private,
    replace_at,
)
from ledger_core.event.model import Event, EventError, whole_text
from ledger_core.event.reader import ReadEvent
from ledger_core.event.secrets import Hit
from ledger_core.tlog.errors import MalformedError
from ledger_core.toml import parse_toml

_Pointer = Annotated[str, whole_text("(/[^/]+)+", chars_max=4096)]
_decode = msgspec.json.Decoder(dict).decode


class ChangedEvent(PrivateEvent, frozen=True):
    """An event that the service changed: masked or committed. The answer reports the changes."""

    masked: tuple[Hit, ...] = ()
    committed: tuple[Committed, ...] = ()


class StoredEvents(NamedTuple):
    """Events with commitments, and how many bytes of private values were stored for them."""

    outcomes: list[ReadEvent | EventError | DamagedValueError]
    stored_bytes: int


class PrivateField(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field that the service commits to, and the place of its subject's id."""

    path: _Pointer
    subject: _Pointer


class _File(msgspec.Struct, forbid_unknown_fields=True):
    fields: tuple[PrivateField, ...] = ()


class PrivateFields:
    """Commits to private values, stores what opens the commitments, and opens them for readers."""

    def __init__(
        self,
        store: PrivateStore,
        fields: Sequence[PrivateField],
        index_for: Callable[[bytes, str | None], int | None],
        *,
        mask_id: Callable[[str], str] = str,
    ) -> None:
        """`index_for` finds an event of the log by the 16 bytes of its id, and its tenant.

        `mask_id` gives what stands in the log for an id. Values are stored under that: a backup
        follows the erasures that the log records.
        """
        self.store: Final = store
        self._fields = tuple(fields)
        self.has_fields: Final = bool(fields)
        """Whether the service commits to fields of events."""
        self._index_for = index_for
        self._mask_id = mask_id

    def names_of(self, subject: str) -> tuple[str, ...]:
        """The names under which values of a subject may be stored, that of the log first."""
        return self._mask_id(subject), subject

    def applies_to(self, read: ReadEvent) -> bool:
        """Whether `commit_and_store` has anything to do for an event."""
        return bool(self._fields) or (isinstance(read, PrivateEvent) and bool(read.openings))

    def commit_and_store(self, reads: Sequence[ReadEvent]) -> StoredEvents:
        """Commit to the configured fields of events, and store the openings of new ones durably.

        A value comes with a new event, once: a repeated one brings back nothing that was erased.

        Waits for the disk, so it runs on a thread of its own. The outcomes have an error in the
        place of each event whose field has no subject, or one whose key is damaged.
        Raises: as `PrivateStore.put`, with nothing stored.
        """
        outcomes: list[ReadEvent | EventError | DamagedValueError] = []
        openings: list[tuple[bytes, Opening]] = []
        if self._fields:
            self.store.make_keys({each for read in reads for each in self._subjects(read)})
        for read in reads:
            try:
                hidden, own = self._commit_fields(read)
                is_new = not self._is_logged(read.id_bytes, read.event.tenant or None)
                new = [self._stored(opening) for opening in own] if is_new else []
                for subject in {opening.subject for opening in new}:
                    self.store.check_key(subject)
            except (EventError, DamagedValueError) as error:
                outcomes.append(error)
                continue
            outcomes.append(hidden)
            openings += [(_event_key(read.event), opening) for opening in new]
        return StoredEvents(outcomes, self.store.put(openings) if openings else 0)

    def open(self, event_json: bytes) -> tuple[Opening, ...]:
        """The openings of a stored event's commitments, except those that were erased.

        Raises: DamagedValueError.
        """
        key = _event_key(decode_event(event_json)[0])
        found = find_commitments(_decode(event_json))
        openings = (self.store.find(commitment, key) for commitment in found)
        return tuple(opening for opening in openings if opening is not None)

    def _stored(self, opening: Opening) -> Opening:
        subject = self._mask_id(opening.subject)
        if subject == opening.subject:
            return opening
        return msgspec.structs.replace(opening, subject=subject)

    def _is_logged(self, id_bytes: bytes, tenant: str | None) -> bool:
        try:
            return self._index_for(id_bytes, tenant) is not None
        except DamagedBundleError:
            return True  # An event has this id, so the writer refuses this one.

    def _commit_fields(self, read: ReadEvent) -> tuple[ReadEvent, list[Opening]]:
        """The event with commitments in its configured fields, and all its openings.

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
                subject = _subject_of(event, field.subject, stars, path)
                openings.append(self._make_opening(read, path, subject, value))
        if event is None or not openings:
            return read, sent
        for opening in openings:
            replace_at(event, opening.path, opening.commitment)
        hidden, event_json = decode_event_object(event)
        committed = tuple(Committed(path=each.path, salt=each.salt) for each in openings)
        changed = ChangedEvent(
            event=hidden,
            event_json=event_json,
            id_bytes=read.id_bytes,
            filled=read.filled,
            openings=(),
            masked=read.masked if isinstance(read, ChangedEvent) else (),
            committed=committed,
        )
        return changed, [*sent, *openings]

    def _subjects(self, read: ReadEvent) -> Iterator[str]:
        """The subjects of the configured fields of an event; none of one without a subject."""
        event = _decode(read.event_json)
        for field in self._fields:
            for path, stars, value in find_values(event, field.path):
                if not is_commitment(value):
                    with suppress(EventError):
                        yield _subject_of(event, field.subject, stars, path)

    def _make_opening(self, read: ReadEvent, path: str, subject: str, value: Any) -> Opening:
        """The opening of a field, the same whenever the event is sent. Raises: EventError."""
        key, event_id = self.store.subject_key(subject), str(read.event.id)
        tenant = read.event.tenant or None
        if self._is_logged(read.id_bytes, tenant):
            # Before, a salt was derived without tenant and value. A sender gets it back only with
            # the value that is stored for it in this very event.
            old = Opening(
                path, subject, encode_salt(_salt(key, f"{event_id}{path}".encode())), value
            )
            committed = Commitment(path, old.commitment)
            if self.store.find(committed, _event_key(read.event)) is not None:
                return old
        unsalted = commitment_to(salt=bytes(SALT_BYTES), path=path, value=value)
        source = msgspec.json.encode((tenant, event_id, unsalted))
        return Opening(path, subject, encode_salt(_salt(key, source)), value)


def parse_fields(text: str) -> tuple[PrivateField, ...]:
    """The fields of a private.toml. Raises: MalformedError."""
    try:
        fields = msgspec.convert(parse_toml(text), _File).fields
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise MalformedError(f"private.toml: {error}") from None
    for field in fields:
        if not may_be_private(field.path):
            raise MalformedError(f"private.toml: nothing private may stand at {field.path}")
    return fields


def opened_values(private_fields: PrivateFields, leaf: bytes) -> list[tuple[bytes, Opening]]:
    """The private values of a leaf, each with the key of its event. Raises: MalformedError."""
    parsed = parse_leaf(leaf)
    key = _event_key(parsed.event)
    return [(key, opening) for opening in private_fields.open(parsed.event_json)]


def _event_key(event: Event) -> bytes:
    return event_key(str(event.id), event.tenant or None)


def _subject_of(event: dict[str, Any], pointer: str, stars: Sequence[str], path: str) -> str:
    for _, _, value in find_values(event, pointer, stars=stars):
        if isinstance(value, str) and value:
            return value
    raise EventError(
        "private by the service's settings, but nothing says whose it is",
        rule="private",
        field=path,
    )


def _salt(key: bytes, source: bytes) -> bytes:
    return hashlib.blake2b(
        source, key=key, digest_size=SALT_BYTES, person=b"wl/private-salt"
    ).digest()
