"""Secrets stay out of the log: events that hold one are refused, or masked if a setting says so.

Counted and logged by rule. The value is in no message: what was refused may be somebody's password.
"""

from collections import Counter
from typing import Final

import msgspec
import structlog

from ledger.service.altered import AlteredEvent
from ledger.service.http.problems import ProblemError, explain
from ledger_core.api import Refused
from ledger_core.event.commitments import PrivateEvent
from ledger_core.event.model import EventError
from ledger_core.event.reader import Reader, ReadEvent
from ledger_core.event.secrets import Hit, SecretRules

LOOKED_AT_ONCE: Final = 64
"""One look at so many takes half as long as a look at each; one that finds something is in vain."""

_log = structlog.get_logger("ledger.service")
_decode = msgspec.json.Decoder(dict).decode


class SecretFilter:
    """Looks at every event before it is queued. Used on the event loop alone."""

    def __init__(self, rules: SecretRules, treatment: str, reader: Reader) -> None:
        """`treatment` is the setting `secrets`."""
        self._rules = rules
        self._treatment: Final = treatment
        self._reader = reader
        self._unreported: Counter[str] = Counter()
        self.found: Final[Counter[str]] = Counter()
        """Events in which a secret was found since the start, by its rule."""

    def check(self, reads: list[ReadEvent | Refused]) -> list[ReadEvent | Refused]:
        """The events as they may be logged; one that may not is refused, naming path and rule."""
        if self._treatment == "off":
            return reads
        checked: list[ReadEvent | Refused] = []
        for start in range(0, len(reads), LOOKED_AT_ONCE):
            some = reads[start : start + LOOKED_AT_ONCE]
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
        rules = {hit.rule for hit in hits}
        self.found.update(rules)
        self._unreported.update(rules)
        if self._treatment == "refuse":
            raise _refusal(hits)
        masked = self._reader.read_object(self._rules.mask(_decode(read.event_json)))
        return AlteredEvent(
            event=masked.event,
            event_json=masked.event_json,
            id_bytes=masked.id_bytes,
            filled=read.filled,
            openings=read.openings if isinstance(read, PrivateEvent) else (),
            masked=hits,
        )

    def report(self) -> None:
        """Log what was found since the last report, one line."""
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
