"""An event that the service logs otherwise than it was sent, and must say so."""

from ledger_core.api import Committed
from ledger_core.event.commitments import PrivateEvent
from ledger_core.event.secrets import Hit


class AlteredEvent(PrivateEvent, frozen=True):
    """An event out of which secrets were taken, or in which the service put commitments."""

    masked: tuple[Hit, ...] = ()
    committed: tuple[Committed, ...] = ()
