"""The rows of the table of ids: which entry has the event with an id, and whose event it was.

Tenants may have an event each with one id: the first has the row of the id, and another tenant's a
row of its own, whose key begins with the id. Ids stay when their entries are pruned. The row then
ends with a mark of the event's tenant, since no entry says any more whose it was.
"""

import hashlib
from typing import Final, NamedTuple

from ledger.store import keyspace
from ledger.store.environment import Environment

TENANT_MARK_BYTES: Final = 16
LAST_TENANT: Final = b"\xff" * TENANT_MARK_BYTES


class IdRow(NamedTuple):
    """The row of an id. `mark` is empty unless its event was pruned and had a tenant."""

    leaf_index: int
    mark: bytes


def decode_id_row(row: bytes) -> IdRow:
    """The index of the event with an id, and its tenant's mark."""
    return IdRow(keyspace.decode_u64(row[: keyspace.U64_BYTES]), row[keyspace.U64_BYTES :])


def tenant_mark(tenant: str | None) -> bytes:
    """16 bytes of the SHA-256 of a tenant; nothing for an event of none."""
    return hashlib.sha256(tenant.encode()).digest()[:TENANT_MARK_BYTES] if tenant else b""


def tenant_id_key(id_bytes: bytes, tenant: str | None) -> bytes:
    """The key in the table of ids for an event whose id another tenant took first.

    32 bytes that begin with the id: no id of an event equals it, and it sorts behind its id.
    """
    return id_bytes + hashlib.sha256((tenant or "").encode()).digest()[:TENANT_MARK_BYTES]


def indices_between(
    environment: Environment, *, low: bytes, last: bytes, most: int
) -> list[int] | None:
    """The indices of the events with ids from `low` to `last`; None for more than `most`.

    Tenants may have an event each with one id.
    """
    indices: list[int] = []
    with environment.read() as transaction, transaction.cursor(keyspace.IDS) as cursor:
        found = cursor.set_range(low)
        while found and cursor.key() <= last + LAST_TENANT:
            if len(indices) == most:
                return None
            indices.append(decode_id_row(cursor.value()).leaf_index)
            found = cursor.next()
    return indices
