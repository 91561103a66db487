"""An event that the service logs otherwise than it was sent, and must say so."""

from ledger.event.private import PrivateEvent
from ledger.event.secrets import Hit
from ledger.service.wire import Committed


class AlteredEvent(PrivateEvent, frozen=True):
    """An event out of which secrets were taken, or in which the service put commitments."""

    masked: tuple[Hit, ...] = ()
    committed: tuple[Committed, ...] = ()
