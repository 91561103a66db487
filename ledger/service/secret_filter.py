"""The filter that keeps secrets out of the log: an event with one is refused, or masked by setting.

An id that looks like a secret becomes a digest instead, under the ledger's own key, and a refusal
is an event of the service itself: nobody hides by looking like a secret (docs/adr/0023). Findings
are counted and logged by rule. No message holds the value, which may be a password.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

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

REFUSED_SHOWN_MAX: Final = 32
"""Refused events of one request that are described; all are counted."""

HOUR_MS: Final = 3_600_000
HOUR_US: Final = 1000 * HOUR_MS

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
        # An id becomes a digest: refused, or masked like all others, its owner would be hidden.
        refused = tuple(hit for hit in hits if not hit.is_id)
        if refused and self._treatment == "refuse":
            raise _refusal(refused)
        masked = self._reader.read_object(self._rules.mask(_decode(read.event_json)))
        return ChangedEvent(
            event=masked.event,
            event_json=masked.event_json,
            id_bytes=masked.id_bytes,
            filled=read.filled,
            openings=read.openings if isinstance(read, PrivateEvent) else (),
            masked=hits,
        )

    def mask(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event without its secrets, whatever the setting."""
        return self._rules.mask(event)

    def describe_refused(
        self,
        refused: Sequence[tuple[ReadEvent, Refused]],
        *,
        by: str,
        unix_us: int,
        own_id: Callable[..., str],
    ) -> list[bytes]:
        """An event for each tenant with what was refused for a secret, from the principal `by`.

        It says who, when and by which rule, without the secret. The same events refused again
        within an hour give the same event again. `own_id` is `PrivateStore.own_id`.
        """
        by_tenant = defaultdict(list)
        for read, refusal in refused:
            by_tenant[read.event.tenant or ""].append((read, refusal))
        return [
            self._describe(
                some,
                tenant,
                by=by,
                event_id=own_id(
                    *(b"refused", by.encode(), *(read.event_json for read, _ in some)),
                    unix_ms=unix_us // HOUR_US * HOUR_MS,
                ),
            )
            for tenant, some in by_tenant.items()
        ]

    def _describe(
        self, refused: Sequence[tuple[ReadEvent, Refused]], tenant: str, *, by: str, event_id: str
    ) -> bytes:
        targets, events = {}, []
        for read, refusal in refused[:REFUSED_SHOWN_MAX]:
            masked = self._rules.mask(_decode(read.event_json))
            actor = {"type": "actor", **masked["actor"]}
            targets[actor["type"], actor["id"]] = {"type": actor["type"], "id": actor["id"]}
            shown = {name: masked[name] for name in ("id", "time", "action")}
            events.append({**shown, "field": refusal.error.field, "rule": refusal.error.rule})
        event = {
            "id": event_id,
            "actor": {"type": "ledger.token", "id": by},
            "action": "ledger.event.refused",
            "targets": list(targets.values()),
            "outcome": "denied",
            "reason": "looks like a secret, and was not logged",
            "context": {"count": len(refused), "events": events},
        }
        return msgspec.json.encode({**event, "tenant": tenant} if tenant else event)

    def report(self) -> None:
        """Log in one line the number of events with secrets since the last report, by rule."""
        for rule, count in self._unreported.items():
            self._metrics.add("secrets_found_total", rule, amount=count)
        if self._unreported:
            _log.warning("secrets_found", treatment=self._treatment, events=dict(self._unreported))
            self._unreported.clear()


def _refusal(hits: tuple[Hit, ...]) -> ProblemError:
    path, rule, _ = hits[0]
    more = f", and {len(hits) - 1} more in this event" if len(hits) > 1 else ""
    return ProblemError(
        "secret",
        f"looks like a secret, by the rule {rule}{more}: leave it out, or mask it before sending",
        field=path,
        rule=rule,
    )
