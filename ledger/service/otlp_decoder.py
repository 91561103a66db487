"""Decodes the log records of one request within a bounded amount of work.

A resource and a scope are decoded once for all records that follow each other with them. The event
of each record holds them, so each record counts their work all the same.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ledger.service.otlp_protobuf import RECORD_FIELDS_MAX, FieldCount, decode_message
from ledger_core.event.model import EventError
from ledger_core.tlog.errors import MalformedError

REQUEST_WORK_MAX: Final = 1 << 21
"""Units of work for the records of one request, a few seconds. 10,000 records with a dozen
attributes, and as many of their resource, need a half of them."""

WORK_BYTES: Final = 256
"""A unit of work is a field, an object in JSON, or so many bytes."""

_decode_json = msgspec.json.Decoder(dict[str, Any]).decode


class Context(NamedTuple):
    """The decoded resource and scope of records, and the units of work that they take."""

    resource: dict[str, Any]
    scope: dict[str, Any]
    work: int


class RecordDecoder:
    """Decodes the records of one request, in their order."""

    def __init__(
        self,
        contexts: Sequence[tuple[bytes, bytes]],
        *,
        is_json: bool,
        work_max: int = REQUEST_WORK_MAX,
    ) -> None:
        """`contexts`: resource and scope, undecoded, by the number that their records have."""
        self.work_left = self._work_max = work_max
        self._contexts = contexts
        self._is_json = is_json
        self._number = -1  # Of the context of the last record, which the next two are about.
        self._hash = hashlib.sha256()
        self._decoded: Context | str | None = None
        """A text is the reason why it can't be decoded."""

    def digest(self, number: int, record: bytes) -> bytes:
        """The SHA-256 of a record with its context."""
        self._enter(number)
        digest = self._hash.copy()
        digest.update(record)
        return digest.digest()

    def decode(self, number: int, record: bytes) -> tuple[Context, dict[str, Any]]:
        """A record and its context as OTLP's JSON has them.

        Raises: EventError when the work for this request is used up, MalformedError, MsgspecError,
        UnicodeDecodeError, RecursionError.
        """
        self._enter(number)
        if self._decoded is None:
            self._decoded = self._decode_context()
        elif isinstance(self._decoded, Context):
            self._spend(self._decoded.work)
        if isinstance(self._decoded, str):
            raise MalformedError(self._decoded)
        return self._decoded, self._decode(record, "RECORD")

    def _enter(self, number: int) -> None:
        if number != self._number:
            resource, scope = self._contexts[number]
            start = b"%d\n%b%d\n%b" % (len(resource), resource, len(scope), scope)
            self._number, self._hash, self._decoded = number, hashlib.sha256(start), None

    def _decode_context(self) -> Context | str:
        resource, scope = self._contexts[self._number]
        before = self.work_left
        try:
            decoded = self._decode(resource, "RESOURCE"), self._decode(scope, "SCOPE")
        except (MalformedError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return str(error)
        return Context(*decoded, before - self.work_left)

    def _decode(self, raw: bytes, message: str) -> dict[str, Any]:
        self._spend(1 + len(raw) // WORK_BYTES)
        if self._is_json:
            objects = raw.count(b"{")
            if objects > RECORD_FIELDS_MAX:
                raise MalformedError(f"more than {RECORD_FIELDS_MAX} objects")
            self._spend(objects)
            return _decode_json(raw)
        count = FieldCount(RECORD_FIELDS_MAX)
        try:
            return decode_message(raw, message, count)
        finally:
            self.work_left = max(0, self.work_left - count.most + max(count.left, 0))

    def _spend(self, units: int) -> None:
        if units > self.work_left:
            self.work_left = 0
            raise EventError(
                f"the records of a request together have at most {self._work_max} values and "
                f"pieces of {WORK_BYTES} bytes, with their resources and scopes; send fewer at "
                "once",
                rule="too-many",
                limit=self._work_max,
            )
        self.work_left -= units
