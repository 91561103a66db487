"""All routes of the service, a module for each resource, in the order of the documentation.

events      append events, and read one back
otlp        append log records of OpenTelemetry
search      search, and the pivots from an answer
values      every value of a field, as a stream
fields      what a query can name, with frequent values
queries     saved queries
stream      events as they come in
export      everything that a query finds, as a file
evidence    everything that a query finds, as a bundle that anybody can verify
erasures    destroy the private values of a subject
proofs      inclusion and consistency
heads       the published checkpoints that are kept
tiles       the log as any tlog client reads it
status      the log, its health, and this interface

`page_parameters` has the parameters that searches share.
"""

from typing import Final

from ledger.service.http.router import Route
from ledger.service.routes import (
    erasures,
    events,
    evidence,
    export,
    fields,
    heads,
    otlp,
    proofs,
    queries,
    search,
    status,
    stream,
    tiles,
    values,
)

ROUTES: Final[tuple[Route, ...]] = (
    *events.ROUTES,
    *otlp.ROUTES,
    *search.ROUTES,
    *values.ROUTES,
    *fields.ROUTES,
    *queries.ROUTES,
    *stream.ROUTES,
    *export.ROUTES,
    *evidence.ROUTES,
    *erasures.ROUTES,
    *proofs.ROUTES,
    *heads.ROUTES,
    *tiles.ROUTES,
    *status.ROUTES,
)
