"""All routes of the service: the modules of its resources, in the order of the documentation."""

from typing import Final

from ledger.service import erasures, events, proofs, status, tiles
from ledger.service.routing import Route

ROUTES: Final[tuple[Route, ...]] = (
    *events.ROUTES,
    *erasures.ROUTES,
    *proofs.ROUTES,
    *tiles.ROUTES,
    *status.ROUTES,
)
