"""The filter that keeps secrets out of the log: an event with one is refused, or masked by setting.

Findings are counted and logged by rule. No message holds the value, which may be a password.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from ledger.service.http.problems import ProblemError, explain
from ledger.service.metrics import Metrics
from ledger.service.private_fields import ChangedEvent
from ledger_core.api import Refused
from ledger_core.event.commitments import PrivateEvent
from ledger_core.event.model import EventError
from ledger_core.event.reader import Reader, ReadEvent
from ledger_core.event.secrets import Hit, SecretRules

EVENTS_PER_PASS: Final = 64
"""A pass over many events halves the cost if none has a secret; else each is scanned again."""

_log = structlog.get_logger("ledger.service")
_decode = msgspec.json.Decoder(dict).decode


class SecretFilter:
    """Scans every event before it is queued. Used on the event loop alone."""

    def __init__(
        self, rules: SecretRules, treatment: str, reader: Reader, metrics: Metrics
    ) -> None:
        """`treatment` is the setting `secrets`."""
        self._rules = rules
        self._treatment: Final = treatment
        self._reader = reader
        self._metrics = metrics
        self._unreported: Counter[str] = Counter()

    def check(self, reads: Sequence[ReadEvent | Refused]) -> Sequence[ReadEvent | Refused]:
        """The events as they may be logged; a refusal names path and rule."""
        if self._treatment == "off":
            return reads
        checked: list[ReadEvent | Refused] = []
        for start in range(0, len(reads), EVENTS_PER_PASS):
            some = reads[start : start + EVENTS_PER_PASS]
            together = [read.event_json for read in some if isinstance(read, ReadEvent)]
            checked += some if self._rules.are_clean(together) else map(self._check_one, some)
        return checked

    def _check_one(self, read: ReadEvent | Refused) -> ReadEvent | Refused:
        if isinstance(read, Refused):
            return read
        try:
            return self._check(read)
        except (EventError, ProblemError) as error:
            return Refused(explain(error).problem)

    def _check(self, read: ReadEvent) -> ReadEvent:
        if not (hits := self._rules.find(read.event_json)):
            return read
        self._unreported.update({hit.rule for hit in hits})
        if self._treatment == "refuse":
            raise _refusal(hits)
        masked = self._reader.read_object(self._rules.mask(_decode(read.event_json)))
        return ChangedEvent(
            event=masked.event,
            event_json=masked.event_json,
            id_bytes=masked.id_bytes,
            filled=read.filled,
            openings=read.openings if isinstance(read, PrivateEvent) else (),
            masked=hits,
        )

    def report(self) -> None:
        """Log in one line the number of events with secrets since the last report, by rule."""
        for rule, count in self._unreported.items():
            self._metrics.add("secrets_found_total", rule, amount=count)
        if self._unreported:
            _log.warning("secrets_found", treatment=self._treatment, events=dict(self._unreported))
            self._unreported.clear()


def _refusal(hits: tuple[Hit, ...]) -> ProblemError:
    path, rule = hits[0]
    more = f", and {len(hits) - 1} more in this event" if len(hits) > 1 else ""
    return ProblemError(
        "secret",
        f"looks like a secret, by the rule {rule}{more}: leave it out, or mask it before sending",
        field=path,
        rule=rule,
    )
