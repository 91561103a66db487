"""Which events a token may append: of its tenant, of its actions, and none of the service's own."""

from typing import Final, NamedTuple

from msgspec import UNSET, UnsetType

from ledger.service.http.problems import ProblemError
from ledger_core.event.model import Event
from ledger_core.query.analyzer import fold

RESERVED_PREFIX: Final = "ledger."
CLIENT_PREFIXES: Final = ("ledger.recorder.", "ledger.syslog.")
"""Reserved actions that clients log all the same: about their own losses."""


class Allowed(NamedTuple):
    """The events that a principal may append: of one tenant, or of all for None; and of actions."""

    tenant: str | None
    actions: tuple[str, ...]

    def check(self, event: Event) -> None:
        """Raises: ProblemError for an event that the principal may not append."""
        if self.tenant is not None and event.tenant != self.tenant:
            raise _wrong_tenant(event.tenant)
        action = event.action
        # Searches compare actions without case: `Ledger.alarm.fired` would be found as an alarm.
        if fold(action).startswith(RESERVED_PREFIX):
            if not action.startswith(CLIENT_PREFIXES):
                raise ProblemError(
                    "reserved-action", "only the service itself logs this action", field="action"
                )
        elif self.actions and not any(_is_action(action, each) for each in self.actions):
            named = ", ".join(self.actions)
            raise ProblemError(
                "action-not-allowed", f"the token may append {named} alone", field="action"
            )


def _is_action(action: str, pattern: str) -> bool:
    """Whether an action is the one of a pattern, or behind it where that ends in `.*`."""
    return action.startswith(pattern[:-1]) if pattern.endswith(".*") else action == pattern


def _wrong_tenant(got: str | UnsetType) -> ProblemError:
    names = "no tenant" if got is UNSET else "another tenant"
    return ProblemError(
        "wrong-tenant", f"the token is bound to one tenant, the event names {names}", field="tenant"
    )
