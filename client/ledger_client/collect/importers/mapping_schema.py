"""The tables of a mapping file: an expression for each field of the event."""

import msgspec

from ledger_client.collect.importers.expressions import Expression


class PrincipalTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A person or a thing. All tables refuse unknown keys."""

    id: Expression
    type: Expression | None = None
    name: Expression | None = None


class ActorTable(PrincipalTable, frozen=True, kw_only=True):
    session: Expression | None = None
    credential: Expression | None = None
    on_behalf_of: PrincipalTable | None = None


class TargetTable(PrincipalTable, frozen=True, kw_only=True):
    """One target, or one for each item of `each`; a change likewise."""

    each: Expression | None = None


class SourceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The source; `ip` may be followed by a port."""

    ip: Expression | None = None
    port: Expression | None = None
    user_agent: Expression | None = None
    service: Expression | None = None


class OutcomeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conditions, tried in this order; if none is true, the outcome is `unknown`."""

    denied: Expression | None = None
    failure: Expression | None = None
    success: Expression | None = None


class ChangeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    path: Expression
    before: Expression | None = None
    after: Expression | None = None
    each: Expression | None = None


class EventTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The event; `when` restricts it to some records."""

    action: Expression
    actor: ActorTable
    outcome: OutcomeTable
    when: Expression | None = None
    time: Expression | None = None
    source: SourceTable = SourceTable()
    targets: list[TargetTable] = []
    changes: list[ChangeTable] = []
    reason: Expression | None = None
    tenant: Expression | None = None
    context: dict[str, Expression] = {}
    notes: dict[str, Expression] = {}


class StagesTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A source that records a request in several stages; only the last one becomes an event."""

    request: Expression
    last: Expression
