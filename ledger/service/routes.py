"""All routes of the service: the modules of its resources, in the order of the documentation."""

from typing import Final

from ledger.service import events, proofs, status, tiles
from ledger.service.routing import Route

ROUTES: Final[tuple[Route, ...]] = (
    *events.ROUTES,
    *proofs.ROUTES,
    *tiles.ROUTES,
    *status.ROUTES,
)
