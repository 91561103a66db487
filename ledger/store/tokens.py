"""The store of access tokens, which say who may append, read or administer.

Only the SHA-256 of a token is stored; the token itself is shown once, when it is made. The command
line changes tokens while the service runs. The service looks a token up on every request, so it
refuses a revoked token from the next request on.

Making and revoking are audit events themselves. The command can't append to the log, which the
service writes. So it stores the event in an outbox, in the transaction of the change, and the
service appends it. The event has its id from the start: appended twice, it is still one entry.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Final, Literal, Self, get_args

import msgspec

from ledger.store import keyspace
from ledger.store.environment import Environment, create_environment
from ledger.store.transaction import Transaction
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import decode_event
from ledger_core.event.model import ACTION_PATTERN, EventError
from ledger_core.event.times import parse_time
from ledger_core.tlog.errors import MalformedError

TokenScope = Literal["append", "read", "query", "export", "erase", "private", "metrics", "admin"]
SCOPES: Final[tuple[TokenScope, ...]] = get_args(TokenScope)
IMPLIED: Final[Mapping[str, TokenScope]] = {"query": "read", "export": "read"}
"""The scope that includes another one, beside `admin`, which includes all."""

TOKEN_PREFIX: Final = "wl_"  # noqa: S105 - what every token starts with, not one
TOKEN_SECRET_BYTES: Final = 32
NAME_LENGTH_MAX: Final = 256
CHECK_CHARS: Final = 32
CHECK_BYTES: Final = 16
_CHECKED: Final = b"\1"
"""Begins a row of the outbox that has a checksum."""

MAP_BYTES: Final = 1 << 28
MAP_SETTING: Final = "access_map_bytes"
DATABASES: Final = (keyspace.TOKENS, keyspace.OUTBOX, keyspace.META)


class TokenLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limits of a token: None is the service's setting, 0 no limit."""

    requests_per_minute: int | None = None
    bytes_per_minute: int | None = None
    stored_bytes_per_day: int | None = None


class TokenRecord(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A stored token. Times are RFC 3339; a revoked token stays as a record.

    `networks`: those that it may be used from, as `ipaddress` writes them; none: from everywhere.
    `actions`: those of the events that it may append, exact or ending in `.*`; none: all.
    `check`: the first 16 bytes, in hex, of the SHA-256 of the key and the rest of the record.
    Records of version 0.1 have none.
    """

    name: str
    scopes: tuple[TokenScope, ...]
    created: str
    tenant: str | None = None
    revoked: str | None = None
    limits: TokenLimits | None = None
    expires: str | None = None
    networks: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    check: str | None = None

    def may(self, scope: TokenScope) -> bool:
        """Whether the token is not revoked and has a scope, or one that includes it."""
        return self.revoked is None and (
            scope in self.scopes or "admin" in self.scopes or IMPLIED.get(scope) in self.scopes
        )

    def is_in_use(self, unix_us: int) -> bool:
        """Whether the token is neither revoked nor expired at a time."""
        return self.revoked is None and (self.expires is None or unix_us < parse_time(self.expires))


_record_decoder = msgspec.json.Decoder(TokenRecord)


class DamagedTokenError(MalformedError):
    """The record of a token is not as it was written."""


class AccessStore:
    """The environment of tokens, open in one process."""

    def __init__(self, environment: Environment, now: Callable[[], int] = unix_us) -> None:
        """`now`: microseconds since 1970."""
        self.environment = environment
        self._now: Final = now

    @classmethod
    def open(cls, path: Path, *, map_bytes: int = MAP_BYTES) -> Self:
        """Open existing tokens, to read and to change. Raises: as `Environment.open`.

        On a file system that is read-only, as the disk of a host under investigation, to read.
        """
        return cls(
            Environment.open(
                path,
                DATABASES,
                readonly=path.exists() and bool(os.statvfs(path).f_flag & os.ST_RDONLY),
                map_bytes=map_bytes,
                map_setting=MAP_SETTING,
            )
        )

    def close(self) -> None:
        self.environment.close()

    def find(self, token: str) -> TokenRecord | None:
        """The record of a token that is in use. Raises, cost: as `lookup`."""
        record = self.lookup(token)
        return record if record is not None and self.is_in_use(record) else None

    def is_in_use(self, record: TokenRecord) -> bool:
        """Whether a token is neither revoked nor expired."""
        return record.is_in_use(self._now() if record.expires else 0)

    def lookup(self, token: str) -> TokenRecord | None:
        """The record of a token, of a revoked or expired one too.

        Raises: DamagedTokenError. Cost: one hash and one point read.
        """
        key = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        value = self.environment.get(keyspace.TOKENS, key)
        return None if value is None else _decode(key, value)

    def records(self) -> list[TokenRecord]:
        """Every token that was ever made, oldest first, without those whose record is damaged."""
        with self.environment.read() as transaction:
            return sorted((record for _, record in _rows(transaction)), key=lambda r: r.created)

    def damaged(self) -> list[str]:
        """The faults of the stored records and of the outbox, a line each."""
        problems = []
        with self.environment.read() as transaction:
            for key, value in transaction.rows(keyspace.TOKENS):
                try:
                    _decode(key, value)
                except DamagedTokenError as error:
                    problems.append(str(error))
            for key, row in transaction.rows(keyspace.OUTBOX):
                try:
                    decode_event(_outbox_event(row))
                except EventError as error:
                    problems.append(f"event {key.hex()} of the outbox: {error}")
        return problems

    def is_empty(self) -> bool:
        return self.environment.count(keyspace.TOKENS) == 0

    def add(self, token: str, record: TokenRecord, *, event: bytes) -> None:
        """Store a new token by its hash, and the event that records it.

        Raises: ValueError when a token of this name is in use.
        """
        key = hashlib.sha256(token.encode()).digest()
        with self.environment.write() as transaction:
            if _find_in_use(transaction, record.name, self._now()):
                raise ValueError(
                    f"there is a token named {record.name!r} already: ledger token rotate replaces "
                    "it, ledger token revoke ends it"
                )
            _put(transaction, key, record)
            _enqueue(transaction, event)

    def rotate(self, token: str, record: TokenRecord, *, old_expires: str, event: bytes) -> None:
        """Store a new token beside the one of its name, which expires then or earlier.

        Raises: KeyError when no token of this name is in use.
        """
        key = hashlib.sha256(token.encode()).digest()
        with self.environment.write() as transaction:
            found = _find_in_use(transaction, record.name, self._now())
            if not found:
                raise KeyError(record.name)
            for old_key, old in found:
                if old.expires is None or parse_time(old_expires) < parse_time(old.expires):
                    _put(transaction, old_key, msgspec.structs.replace(old, expires=old_expires))
            _put(transaction, key, record)
            _enqueue(transaction, event)

    def revoke(self, name: str, *, revoked: str, event: bytes) -> TokenRecord:
        """Revoke all tokens of this name, and store the event that records it; the newest of them.

        Raises: KeyError when no token of this name is in use.
        """
        with self.environment.write() as transaction:
            found = _find_in_use(transaction, name, 0)
            if not found:
                raise KeyError(name)
            for key, record in found:
                _put(transaction, key, msgspec.structs.replace(record, revoked=revoked))
            _enqueue(transaction, event)
        return msgspec.structs.replace(found[-1][1], revoked=revoked)

    def expire(self, record: TokenRecord, expires: str) -> None:
        """Have a stored token expire at a time, without an event."""
        with self.environment.write() as transaction:
            for key, stored in _rows(transaction):
                if stored == record:
                    _put(transaction, key, msgspec.structs.replace(stored, expires=expires))

    def enqueue(self, event: bytes) -> None:
        """Store in the outbox an event that belongs to no change of a token."""
        self.enqueue_all([event])

    def enqueue_all(self, events: Sequence[bytes]) -> None:
        """As `enqueue`, of several events: one commit for all."""
        with self.environment.write() as transaction:
            for event in events:
                _enqueue(transaction, event)

    def outbox(self, start: int = 0) -> list[tuple[int, bytes]]:
        """Events that may not be in the log yet, with their sequence numbers, from `start` on.

        A damaged one is no JSON: no reader of events takes it, and it stays here.
        """
        with self.environment.read() as transaction:
            rows = transaction.rows_from(keyspace.OUTBOX, keyspace.encode_u64(start))
            return [(keyspace.decode_u64(key), _outbox_event(row)) for key, row in rows]

    def clear_outbox(self, sequence_numbers: Sequence[int]) -> None:
        """Delete events that are durable in the log."""
        with self.environment.write() as transaction:
            for number in sequence_numbers:
                transaction.delete(keyspace.OUTBOX, keyspace.encode_u64(number))


def create_access(path: Path) -> None:
    """Make an empty environment of tokens in the folder `path`. Raises: as `create_environment`."""
    create_environment(path, DATABASES, meta={}, map_bytes=MAP_BYTES, records_engine=False)


def canonical_network(text: str) -> str:
    """A network of a token in its one spelling. Raises: ValueError."""
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ValueError(f"not a network such as 10.0.0.0/8 or 2001:db8::/32: {error}") from None


def checked_action(text: str) -> str:
    """An action that a token may log, or the beginning of some. Raises: ValueError."""
    if not re.fullmatch(ACTION_PATTERN, text.removesuffix(".*")):
        raise ValueError(f"not an action or its beginning, such as billing.*: {text!a}")
    return text


def _rows(transaction: Transaction[bytes]) -> Iterator[tuple[bytes, TokenRecord]]:
    for key, value in transaction.rows(keyspace.TOKENS):
        with suppress(DamagedTokenError):  # `damaged` names it.
            yield key, _decode(key, value)


def _encode(key: bytes, record: TokenRecord) -> bytes:
    plain = msgspec.structs.replace(record, check=None)
    return msgspec.json.encode(msgspec.structs.replace(plain, check=_checksum(key, plain)))


# Every request looks its token up, and a record that changed is another value.
@lru_cache(maxsize=1024)
def _decode(key: bytes, value: bytes) -> TokenRecord:
    """Raises: DamagedTokenError."""
    name = f"the record of the token {key.hex()[:16]}"
    try:
        record = _record_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamagedTokenError(f"{name}: {error}") from None
    plain = msgspec.structs.replace(record, check=None)
    if record.check is not None and record.check != _checksum(key, plain):
        raise DamagedTokenError(f"{name} has another checksum")
    return plain


def _checksum(key: bytes, record: TokenRecord) -> str:
    return hashlib.sha256(key + msgspec.json.encode(record)).hexdigest()[:CHECK_CHARS]


def _put(transaction: Transaction[bytes], key: bytes, record: TokenRecord) -> None:
    transaction.put(keyspace.TOKENS, key, _encode(key, record))


def _find_in_use(
    transaction: Transaction[bytes], name: str, unix_us: int
) -> list[tuple[bytes, TokenRecord]]:
    """The tokens of a name in use at a time, the oldest first; at 0 all that are not revoked."""
    rows = [row for row in _rows(transaction) if row[1].name == name and row[1].is_in_use(unix_us)]
    return sorted(rows, key=lambda row: row[1].created)


def _enqueue(transaction: Transaction[bytes], event: bytes) -> None:
    with transaction.cursor(keyspace.OUTBOX) as cursor:
        number = keyspace.decode_u64(cursor.key()) + 1 if cursor.last() else 0
    row = _CHECKED + hashlib.sha256(event).digest()[:CHECK_BYTES] + event
    transaction.put(keyspace.OUTBOX, keyspace.encode_u64(number), row, append=True)


def _outbox_event(row: bytes) -> bytes:
    """The event of a row of the outbox; the row itself, which is no JSON, if it is damaged.

    Rows of version 0.1 are the event alone, and begin with a brace.
    """
    start = len(_CHECKED) + CHECK_BYTES
    is_whole = row[len(_CHECKED) : start] == hashlib.sha256(row[start:]).digest()[:CHECK_BYTES]
    return row[start:] if row.startswith(_CHECKED) and is_whole else row
