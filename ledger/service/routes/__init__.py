"""All routes of the service: the modules of its resources, in the order of the documentation."""

from typing import Final

from ledger.service.http.router import Route
from ledger.service.routes import (
    erasures,
    events,
    proofs,
    search,
    status,
    tiles,
)
from ledger.service.routes import (
    export as exporting,
)
from ledger.service.routes import (
    stream as tail,
)

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
