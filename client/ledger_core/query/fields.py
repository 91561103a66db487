"""The dimensions of the index, and the numbers that stand for them on disk."""

from typing import Final

DIMENSIONS: Final = (
    "action",
    "action.family",
    "actor",
    "actor.on_behalf_of",
    "actor.type",
    "context",
    "credential",
    "field",
    "hour",
    "minute",
    "outcome",
    "reason",
    "received",
    "request",
    "service",
    "session",
    "source",
    "target",
    "target.type",
    "tenant",
    "trace",
    "word",
)

DIMENSION_NUMBERS: Final = {name: number for number, name in enumerate(DIMENSIONS, start=1)}
