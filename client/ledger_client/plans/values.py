"""Reads a list of all values of a field, line by line, and holds it against its trailer.

The counts are what the service says: no proof covers them. A list that was cut short, one with
another number of values, and one that names a value twice in a row are refused.
"""

from typing import Final

import msgspec

from ledger_client.messages import Request
from ledger_client.plans.question import Question
from ledger_client.responses import malformed_as
from ledger_core.asking import AskValues, ValuesTrailer, ValuesTrailerLine
from ledger_core.search_answers import FacetValue
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

_BEGINS_TRAILER: Final = b'{"trailer"'
_decode_value = msgspec.json.Decoder(FacetValue).decode
_decode_trailer = msgspec.json.Decoder(ValuesTrailerLine).decode


class ValueList:
    """The position of one reader in a list. Mutable."""

    def __init__(self, field: str, question: Question) -> None:
        self._ask: Final = AskValues(field=field, query=question.text)
        self._values = self._most = 0
        self._last: str | None = None
        self._trailer: ValuesTrailer | None = None

    def request(self) -> Request:
        """The request for the list."""
        return Request(
            target="/v1/values",
            method="POST",
            accept="application/x-ndjson",
            content_type="application/json",
            body=msgspec.json.encode(self._ask),
        )

    def read(self, line: bytes) -> FacetValue | None:
        """The value of a line; None for the trailer. Raises: MalformedError, VerificationError."""
        if self._trailer is not None:
            raise MalformedError("the list of values goes on behind its trailer")
        if line.startswith(_BEGINS_TRAILER):
            with malformed_as(self.request()):
                self._trailer = _decode_trailer(line).trailer
            self._check(self._trailer)
            return None
        with malformed_as(self.request()):
            found = _decode_value(line)
        if found.value == self._last or not found.count:
            raise MalformedError("the list of values has a value twice, or one without an event")
        self._values += 1
        self._last = found.value
        self._most = max(self._most, found.count)
        return found

    def end(self) -> ValuesTrailer:
        """The trailer. Raises: UnavailableError when the list was cut short."""
        if self._trailer is None:
            raise UnavailableError("the list of values was cut short; ask again")
        return self._trailer

    def _check(self, trailer: ValuesTrailer) -> None:
        if trailer.values != self._values:
            raise VerificationError(
                f"the list has {self._values:,} values, and its trailer says {trailer.values:,}"
            )
        if max(self._most, trailer.total) > trailer.tree_size or self._most > trailer.total:
            raise VerificationError("the list counts more events than there are")
