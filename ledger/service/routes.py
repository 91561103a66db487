"""All routes of the service: the modules of its resources, in the order of the documentation."""

from typing import Final

from ledger.service import erasures, events, exporting, proofs, search, status, tail, tiles
from ledger.service.routing import Route

ROUTES: Final[tuple[Route, ...]] = (
    *events.ROUTES,
    *search.ROUTES,
    *tail.ROUTES,
    *exporting.ROUTES,
    *erasures.ROUTES,
    *proofs.ROUTES,
    *tiles.ROUTES,
    *status.ROUTES,
)
