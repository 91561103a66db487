"""Functions that name the actor: one bound to a context, and what one says when a call begins."""

from collections.abc import Callable
from contextvars import copy_context
from typing import Any, NamedTuple

from ledger_client.recording.arguments import Principal, resolve_actor
from ledger_client.recording.context import ANONYMOUS_TYPE, current_scope


class BoundActor:
    """A function of the actor that runs in the context in which this was made.

    It may read what another thread, or the end of the request, does not have: the globals of Flask.
    """

    __slots__ = ("_context", "_find")

    def __init__(self, find: Callable[[], Principal | None]) -> None:
        self._find = find
        self._context = copy_context()

    def __call__(self) -> Principal | None:
        """Call it."""
        # A copy, since a context runs one function at a time.
        return self._context.copy().run(self._find)

    def quietly(self) -> Principal | None:
        """Call it as `acting_now` does."""
        find: Callable[[], Principal | None] = getattr(self._find, "quietly", self._find)
        return self._context.copy().run(find)


class Acting(NamedTuple):
    """Whom the function of an audit context named when a call began."""

    find: Callable[[], Principal | None]
    actor: dict[str, Any]

    def at_end(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The actor of the call, and who acts after it if that is another user.

        The actor is None where the call has set one itself, which holds.
        """
        if current_scope().get("actor") is not self.find:
            return None, None
        after = _named_by(self.find)
        if after is None or all(after.get(k) == self.actor.get(k) for k in ("type", "id")):
            return self.actor, None
        return self.actor, {name: after[name] for name in ("type", "id", "name") if name in after}


def acting_now() -> Acting | None:
    """Whom the function of the audit context names; None if that is nobody, or no function."""
    find: Any = current_scope().get("actor")
    actor = _named_by(find) if callable(find) else None
    return None if actor is None else Acting(find, actor)


def _named_by(find: Any) -> dict[str, Any] | None:
    """Whom a function names; None for nobody, and where it fails, as it may know only later."""
    try:
        actor = resolve_actor(getattr(find, "quietly", find))
    except Exception:  # noqa: BLE001 - the application's function
        return None
    return None if actor is None or actor.get("type") == ANONYMOUS_TYPE else actor
