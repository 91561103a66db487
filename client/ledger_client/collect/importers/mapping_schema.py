"""The tables of a mapping file that make an event: what stands in each field, as expressions."""

import msgspec

from ledger_client.collect.importers.expressions import Expression


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all tables share: unknown keys are refused."""


class PrincipalTable(_Table, frozen=True, kw_only=True):
    """Someone or something."""

    id: Expression
    type: Expression | None = None
    name: Expression | None = None


class ActorTable(PrincipalTable, frozen=True, kw_only=True):
    """Who acted."""

    session: Expression | None = None
    credential: Expression | None = None
    on_behalf_of: PrincipalTable | None = None


class TargetTable(PrincipalTable, frozen=True, kw_only=True):
    """What was acted on: one target, or one for each of what `each` gives."""

    each: Expression | None = None


class SourceTable(_Table, frozen=True, kw_only=True):
    """Where it came from; `ip` may have a port behind it."""

    ip: Expression | None = None
    port: Expression | None = None
    user_agent: Expression | None = None
    service: Expression | None = None


class OutcomeTable(_Table, frozen=True, kw_only=True):
    """Conditions, tried in this order; when none holds, the outcome is `unknown`."""

    denied: Expression | None = None
    failure: Expression | None = None
    success: Expression | None = None


class ChangeTable(_Table, frozen=True, kw_only=True):
    """What was changed: one value, or one for each of what `each` gives."""

    path: Expression
    before: Expression | None = None
    after: Expression | None = None
    each: Expression | None = None


class EventTable(_Table, frozen=True, kw_only=True):
    """An event; `when` says for which records, if not for all."""

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
