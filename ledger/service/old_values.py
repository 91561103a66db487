"""The private values that version 0.1 stored, each bound once to the event that it came with.

Version 0.1 found a value by its commitment alone. Whoever logged a copy of the commitment, in an
event of another tenant too, would read the value and its salt there. Nobody knows a commitment
before it is in the log, so the first event of the log with it is the one that the value came with.
"""

from collections.abc import Generator
from contextlib import closing
from itertools import chain
from typing import Final

import msgspec
import structlog

from ledger.store import unbound_values
from ledger.store.erasable_values import PrivateStore, event_key
from ledger.store.log import DamagedBundleError, LogStore
from ledger.store.stored_log import FetchFailedError
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.commitments import find_commitments

_NEEDLE: Final = b'"commitment'
"""Begins a commitment in each of its forms: `"commitment":"47DEQ…"` and `"commitment.47DEQ…"`."""

_log = structlog.get_logger("ledger.service")
_decode = msgspec.json.Decoder(dict).decode


def bind_old_values(store: PrivateStore, log: LogStore) -> None:
    """Bind the values of version 0.1 to their events, if that was not done before.

    A value whose event is not in the log opens nothing; its subject can be erased all the same.
    Cost: reads the log, once, up to the last of these events.
    """
    environment = store.environment
    if unbound_values.is_bound(environment):
        return
    unbound, found = unbound_values.unbound(environment), dict[str, bytes]()
    try:
        with closing(_events_with_commitments(log)) as events:
            while len(found) < len(unbound) and (each := next(events, None)) is not None:
                commitment, event = each
                if commitment in unbound:
                    found.setdefault(commitment, event)
    except DamagedBundleError:  # The store has logged it.
        # Behind it may be a copy, whose first event can't be read. The next start tries again.
        _log.error("old_values_not_opened", reason="a bundle is damaged: run ledger fsck")
        return
    except FetchFailedError as error:  # The next start tries again.
        _log.error("old_values_not_opened", reason=str(error))
        return
    unbound_values.bind(environment, found)
    if unbound:
        _log.info("old_values_bound", values=len(found), without_event=len(unbound) - len(found))


def _events_with_commitments(log: LogStore) -> Generator[tuple[str, bytes]]:
    """Each commitment of the log, in order, with the `event_key` of its event."""
    tree_size = log.head().tree_size
    with log.environment.read() as snapshot:
        for leaf in chain.from_iterable(log.leaves_between(snapshot, 0, tree_size)):
            if _NEEDLE in leaf:
                parsed = parse_leaf(leaf)
                event = event_key(str(parsed.event.id), parsed.event.tenant or None)
                for commitment in find_commitments(_decode(parsed.event_json)):
                    yield commitment.hash, event
