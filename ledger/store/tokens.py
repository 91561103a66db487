"""Access tokens: who may append, read or administer, in their own small environment.

Only the SHA-256 of a token is stored; the token itself is shown once, when it is made. The command
line changes tokens while the service runs: LMDB lets both processes in, and the service looks a
token up on every request, so a revoked one is refused from the next request on.

Making and revoking are audit events themselves. The command can't append to the log that the
service owns, so it leaves the event in an outbox, in the same transaction as the change, and the
service takes it into the log. The event has its id from the start: taken in twice, it is still one
entry.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Self, get_args

import lmdb
import msgspec

from ledger.store import keyspace
from ledger.store.environment import Transaction, commit_errors, open_databases, open_environment

TokenScope = Literal["append", "read", "private", "admin"]
SCOPES: Final[tuple[TokenScope, ...]] = get_args(TokenScope)
TOKEN_PREFIX: Final = "wl_"  # noqa: S105 - what every token starts with, not one
TOKEN_SECRET_BYTES: Final = 32
NAME_LENGTH_MAX: Final = 256
_MAP_BYTES: Final = 1 << 28
_DATABASES: Final = (keyspace.TOKENS, keyspace.OUTBOX, keyspace.META)


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a token. Times are RFC 3339; a revoked token stays as a record."""

    name: str
    scopes: tuple[TokenScope, ...]
    created: str
    tenant: str | None = None
    revoked: str | None = None

    def may(self, scope: TokenScope) -> bool:
        """Whether the token carries a scope; `admin` carries all of them."""
        return self.revoked is None and (scope in self.scopes or "admin" in self.scopes)


_record_decoder = msgspec.json.Decoder(TokenRecord)


class AccessStore:
    """The environment of tokens, open in one process."""

    def __init__(self, path: Path, environment: lmdb.Environment) -> None:
        self._path = path
        self._environment = environment
        self._databases = open_databases(environment, _DATABASES, path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises: UnavailableError when there is none, MalformedError for another format."""
        # The check for existing data is that of a reader; changes need write access.
        open_environment(path, readonly=True, databases_max=len(_DATABASES)).close()
        environment = open_environment(
            path, readonly=False, databases_max=len(_DATABASES), map_bytes=_MAP_BYTES
        )
        try:
            return cls(path, environment)
        except BaseException:
            environment.close()
            raise

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()

    def find(self, token: str) -> TokenRecord | None:
        """The record of a token that is not revoked. Cost: one hash and one point read."""
        key = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        with self._environment.begin() as transaction:
            value = transaction.get(key, db=self._databases[keyspace.TOKENS])
        if value is None:
            return None
        record = _record_decoder.decode(value)
        return None if record.revoked else record

    def records(self) -> list[TokenRecord]:
        """Every token that was ever made, oldest first."""
        return sorted((r for _, r in self._rows()), key=lambda record: record.created)

    def is_empty(self) -> bool:
        """Whether no token was ever made."""
        with self._environment.begin() as transaction:
            return transaction.stat(self._databases[keyspace.TOKENS])["entries"] == 0

    def add(self, token: str, record: TokenRecord, *, event: bytes) -> None:
        """Keep a new token by its hash, and the event that says so.

        Raises: ValueError when a token of this name is in use.
        """
        key = hashlib.sha256(token.encode()).digest()
        with commit_errors(self._path), self._environment.begin(write=True) as transaction:
            if self._live_key(transaction, record.name) is not None:
                raise ValueError(f"there is a token named {record.name!r} already; revoke it first")
            self._put(transaction, key, record)
            self._post(transaction, event)

    def revoke(self, name: str, *, revoked: str, event: bytes) -> TokenRecord:
        """End the token of this name, and keep the event that says so.

        Raises: KeyError when no token of this name is in use.
        """
        with commit_errors(self._path), self._environment.begin(write=True) as transaction:
            key = self._live_key(transaction, name)
            if key is None:
                raise KeyError(name)
            found = transaction.get(key, db=self._databases[keyspace.TOKENS])
            if found is None:
                raise lmdb.CorruptedError("a token that was just read is gone")
            record = msgspec.structs.replace(_record_decoder.decode(found), revoked=revoked)
            self._put(transaction, key, record)
            self._post(transaction, event)
        return record

    def post(self, event: bytes) -> None:
        """Leave an event for the log that no change of a token belongs to."""
        with commit_errors(self._path), self._environment.begin(write=True) as transaction:
            self._post(transaction, event)

    def outbox(self) -> list[tuple[int, bytes]]:
        """Events that the log has yet to take in, oldest first, with their sequence numbers."""
        with (
            self._environment.begin() as transaction,
            transaction.cursor(self._databases[keyspace.OUTBOX]) as cursor,
        ):
            return [(keyspace.decode_u64(key), value) for key, value in cursor]

    def clear_outbox(self, sequence_numbers: Sequence[int]) -> None:
        """Forget events that are durable in the log."""
        with commit_errors(self._path), self._environment.begin(write=True) as transaction:
            for number in sequence_numbers:
                transaction.delete(keyspace.encode_u64(number), db=self._databases[keyspace.OUTBOX])

    def _rows(self) -> list[tuple[bytes, TokenRecord]]:
        with self._environment.begin() as transaction:
            return self._rows_in(transaction)

    def _rows_in(self, transaction: Transaction) -> list[tuple[bytes, TokenRecord]]:
        with transaction.cursor(self._databases[keyspace.TOKENS]) as cursor:
            return [(key, _record_decoder.decode(value)) for key, value in cursor]

    def _live_key(self, transaction: Transaction, name: str) -> bytes | None:
        for key, record in self._rows_in(transaction):
            if record.name == name and record.revoked is None:
                return key
        return None

    def _put(self, transaction: Transaction, key: bytes, record: TokenRecord) -> None:
        value = msgspec.json.encode(record)
        if not transaction.put(key, value, db=self._databases[keyspace.TOKENS]):
            raise lmdb.CorruptedError("a token was not stored")

    def _post(self, transaction: Transaction, event: bytes) -> None:
        outbox = self._databases[keyspace.OUTBOX]
        with transaction.cursor(outbox) as cursor:
            number = keyspace.decode_u64(cursor.key()) + 1 if cursor.last() else 0
        if not transaction.put(keyspace.encode_u64(number), event, append=True, db=outbox):
            raise lmdb.CorruptedError("an event was not stored in the outbox")


def create_access(path: Path) -> None:
    """Make an empty environment of tokens in the folder `path`."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = open_environment(
        path, readonly=False, databases_max=len(_DATABASES), map_bytes=_MAP_BYTES
    )
    try:
        with environment.begin(write=True) as transaction:
            for name in _DATABASES:
                environment.open_db(name, txn=transaction)
            meta = environment.open_db(keyspace.META, txn=transaction)
            transaction.put(keyspace.META_FORMAT, keyspace.FORMAT_VERSION, db=meta)
    finally:
        environment.close()
