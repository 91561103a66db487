"""The filter that keeps secrets out of the log: an event with one is refused, or masked by setting.

An id that looks like a secret becomes a digest instead, under the ledger's own key, and a refusal
is an event of the service itself: nobody hides by looking like a secret (docs/adr/0023). Findings
are counted and logged by rule. No message holds the value, which may be a password.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

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

REFUSED_SHOWN_MAX: Final = 32
"""Refused events of one request that are described; all are counted."""

HOUR_MS: Final = 3_600_000
HOUR_US: Final = 1000 * HOUR_MS

_NO_RULES: Final[Counter[str]] = Counter()
"""What a check that found nothing returns: to make one takes as long as to search an event."""

_log = structlog.get_logger("ledger.service")
_decode = msgspec.json.Decoder(dict).decode


class RefusedSecret(NamedTuple):
    """An event that was refused for a secret: who, when, by which rule, and nothing secret."""

    event_hash: bytes
    tenant: str
    actor: dict[str, str]
    shown: dict[str, str | None]


class Checked(NamedTuple):
    """Events as they may be logged, and what was found in them, once for each event."""

    outcomes: Sequence[ReadEvent | Refused]
    rules: Counter[str]
    refused: Sequence[RefusedSecret]


def found_nothing(reads: Sequence[ReadEvent | Refused]) -> Checked:
    """The outcome for events without secrets."""
    return Checked(reads, _NO_RULES, ())


class SecretFilter:
    """Scans every event before it is queued. Any thread may call `are_clean` and `check`."""

    def __init__(
        self, rules: SecretRules, treatment: str, reader: Reader, metrics: Metrics
    ) -> None:
        """`treatment` is the setting `secrets`."""
        self._rules = rules
        self._treatment: Final = treatment
        self._reader = reader
        self._metrics = metrics
        self._unreported: Counter[str] = Counter()

    def are_clean(self, reads: Sequence[ReadEvent | Refused]) -> bool:
        """Whether none of some dozens of events has a secret; False where one may have.

        One pass over all of them costs a half of a pass over each.
        """
        together = [read.event_json for read in reads if isinstance(read, ReadEvent)]
        return self._treatment == "off" or self._rules.are_clean(together)

    def check(self, reads: Sequence[ReadEvent | Refused]) -> Checked:
        """The events as they may be logged; a refusal names path and rule."""
        if self.are_clean(reads):
            return found_nothing(reads)
        rules: Counter[str] = Counter()
        refused: list[RefusedSecret] = []
        reads = [self._check(read, rules, refused) for read in reads]
        return Checked(reads, rules, refused)

    def _check(
        self, read: ReadEvent | Refused, rules: Counter[str], refused: list[RefusedSecret]
    ) -> ReadEvent | Refused:
        if isinstance(read, Refused) or self._rules.is_clean(read.event_json):
            return read
        masked, hits = self._rules.walk(_decode(read.event_json))
        if not hits:
            return read
        rules.update({hit.rule for hit in hits})
        # An id becomes a digest: refused, or masked like all others, its owner would be hidden.
        if self._treatment == "refuse" and (secret := [hit for hit in hits if not hit.is_id]):
            refused.append(_describe_one(read, masked, secret[0]))
            return Refused(_refusal(secret).problem)
        try:
            masked_read = self._reader.read_object(masked)
        except EventError as error:
            return Refused(explain(error).problem)
        return ChangedEvent(
            event=masked_read.event,
            event_json=masked_read.event_json,
            id_bytes=masked_read.id_bytes,
            filled=read.filled,
            openings=read.openings if isinstance(read, PrivateEvent) else (),
            masked=hits,
        )

    def mask(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event without its secrets, whatever the setting."""
        return self._rules.mask(event)

    def describe_refused(
        self,
        refused: Sequence[RefusedSecret],
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
        for each in refused:
            by_tenant[each.tenant].append(each)
        unix_ms = unix_us // HOUR_US * HOUR_MS
        described = []
        for tenant, some in by_tenant.items():
            parts = (b"refused", by.encode(), *(each.event_hash for each in some))
            event_id = own_id(*parts, unix_ms=unix_ms)
            described.append(_describe(some, tenant, by=by, event_id=event_id))
        return described

    def count(self, rules: Counter[str]) -> None:
        """Count what `check` found, for the next report. For the event loop alone."""
        self._unreported += rules

    def report(self) -> None:
        """Log in one line the number of events with secrets since the last report, by rule."""
        for rule, count in self._unreported.items():
            self._metrics.add("secrets_found_total", rule, amount=count)
        if self._unreported:
            _log.warning("secrets_found", treatment=self._treatment, events=dict(self._unreported))
            self._unreported.clear()


def _describe_one(read: ReadEvent, masked: dict[str, Any], hit: Hit) -> RefusedSecret:
    actor = {"type": "actor", **masked["actor"]}
    shown = {name: masked[name] for name in ("id", "time", "action")}
    return RefusedSecret(
        event_hash=hashlib.sha256(read.event_json).digest(),
        tenant=read.event.tenant or "",
        actor={"type": actor["type"], "id": actor["id"]},
        shown={**shown, "field": hit.path, "rule": hit.rule},
    )


def _describe(refused: Sequence[RefusedSecret], tenant: str, *, by: str, event_id: str) -> bytes:
    shown = refused[:REFUSED_SHOWN_MAX]
    event = {
        "id": event_id,
        "actor": {"type": "ledger.token", "id": by},
        "action": "ledger.event.refused",
        "targets": list({(e.actor["type"], e.actor["id"]): e.actor for e in shown}.values()),
        "outcome": "denied",
        "reason": "looks like a secret, and was not logged",
        "context": {"count": len(refused), "events": [each.shown for each in shown]},
    }
    return msgspec.json.encode({**event, "tenant": tenant} if tenant else event)


def _refusal(hits: Sequence[Hit]) -> ProblemError:
    path, rule, _ = hits[0]
    more = f", and {len(hits) - 1} more in this event" if len(hits) > 1 else ""
    return ProblemError(
        "secret",
        f"looks like a secret, by the rule {rule}{more}: leave it out, or mask it before sending",
        field=path,
        rule=rule,
    )
