"""Follows a stream of events, without I/O: lines in, entries out, and the index to resume at.

A stream may end at any time, as when the service stops or a proxy times out. The client then
requests it again from the index that it has reached, so no entry is missed and none comes twice. An
entry before that index is refused.
"""

from typing import Final
from urllib.parse import urlencode

from ledger_client.messages import ANSWER_BYTES_MAX, Plan, Request
from ledger_client.plans.heads import Heads
from ledger_client.plans.question import Question
from ledger_client.plans.search import read_found
from ledger_client.responses import adding_evidence, malformed_as
from ledger_client.results import Entry
from ledger_client.retry import Attempts, Environment, RetryPolicy
from ledger_core.search_answers import FoundEvent, decode_stream_line
from ledger_core.tlog.errors import MalformedError, UnavailableError

LINE_BYTES_MAX: Final = ANSWER_BYTES_MAX


class LineSplitter:
    """Splits pieces of bytes into lines. Mutable."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that this piece completes. Raises: MalformedError for an endless one."""
        lines: list[bytes] = []
        # Only the new piece is searched: a server may send a line byte by byte.
        first, *others = piece.split(b"\n")
        self._rest += first
        for other in others:
            lines.append(bytes(self._rest))
            self._rest = bytearray(other)
        if len(self._rest) > LINE_BYTES_MAX:
            raise MalformedError(f"a line of the stream is longer than {LINE_BYTES_MAX} bytes")
        return lines


class EventStream:
    """The position of one reader in a stream. Mutable."""

    def __init__(
        self,
        question: Question,
        *,
        start: int | None,
        heads: Heads | None,
        retry: RetryPolicy,
        environment: Environment,
    ) -> None:
        """Begins at the entry at `start`; None stands for the next new entry."""
        self._question: Final = question
        self._heads: Final = heads
        self._retry: Final = retry
        self._environment: Final = environment
        self._next = start
        self._attempts: Attempts | None = None  # Those since the last line.

    def request(self) -> Request:
        """The request for the stream, at first and after each end."""
        given: dict[str, str | int] = {"q": self._question.text}
        if self._next is not None:
            given["from"] = self._next
        if self._heads is not None:
            given["proof"] = 1
        return Request(
            target=f"/v1/events/stream?{urlencode(given)}", accept="application/x-ndjson"
        )

    def read(self, line: bytes) -> Plan[Entry | None]:
        """The entry of a line, verified when there are `heads`; None for a line without one.

        Raises: VerificationError, MalformedError.
        """
        with malformed_as(self.request()):
            found = decode_stream_line(line)
        self._attempts = None
        position = found.index if isinstance(found, FoundEvent) else found.next
        if position < (self._next or 0):
            raise MalformedError(f"the stream goes back: got {position}, want {self._next} or more")
        entry = None
        if isinstance(found, FoundEvent):
            with adding_evidence(lambda: {"line.json": line}):
                entry = yield from read_found(found, heads=self._heads, question=self._question)
        self._next = position + (entry is not None)
        return entry

    def pause_s(self, failure: UnavailableError | None) -> float:
        """The wait before the next request; None stands for a stream that ended in order.

        Raises: UnavailableError when the retries are used up.
        """
        if self._attempts is None:
            self._attempts = Attempts(self._retry, self._environment)
        failure = failure or UnavailableError("the stream ended")
        return self._attempts.pause_s(failure, name=self.request().name)
