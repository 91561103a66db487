"""The erasable values of version 0.1, whose rows lack the event that each is of.

They open nothing until `bind` has said once, from the log, which event each is of; one that the log
has no event for can only be erased.
"""

from collections.abc import Iterator, Mapping

from ledger.store import keyspace
from ledger.store.environment import Environment
from ledger.store.erasable_values import SUBJECT_BYTES
from ledger.store.transaction import Transaction
from ledger_core.event.commitments import HASH_CHARS


def is_bound(environment: Environment) -> bool:
    """Whether `bind` was called, or version 0.1 wrote nothing here."""
    return environment.get(keyspace.META, keyspace.META_BOUND) is not None


def unbound(environment: Environment) -> set[str]:
    """The commitments of version 0.1, whose events are unknown. Reads all keys of values."""
    with environment.read() as transaction:
        return {key[SUBJECT_BYTES:].decode() for key in _unbound_keys(transaction)}


def bind(environment: Environment, events: Mapping[str, bytes]) -> None:
    """Store of each commitment of version 0.1, which `event_key` its event has.

    Raises: as `PrivateStore.put`.
    """
    with environment.write() as transaction:
        for key in _unbound_keys(transaction):
            commitment = key[SUBJECT_BYTES:]
            event = events.get(commitment.decode())
            if event is not None:
                row = transaction.require(keyspace.VALUES, commitment)
                transaction.put(keyspace.VALUES, commitment + event, row)
                transaction.put(keyspace.BY_SUBJECT, key + event, b"")
                transaction.delete(keyspace.VALUES, commitment)
                transaction.delete(keyspace.BY_SUBJECT, key)
        transaction.put(keyspace.META, keyspace.META_BOUND, b"")


def _unbound_keys(transaction: Transaction[bytes]) -> Iterator[bytes]:
    """The subject and the commitment of each row of version 0.1."""
    with transaction.cursor(keyspace.BY_SUBJECT) as cursor:
        keys = cursor.iternext(values=False)
        yield from [key for key in keys if len(key) == SUBJECT_BYTES + HASH_CHARS]
