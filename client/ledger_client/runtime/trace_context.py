"""The trace that a request belongs to, by the header `traceparent` (W3C Trace Context)."""

import re
from collections.abc import Sequence
from typing import NamedTuple

_match_traceparent = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace_id>[0-9a-f]{32})-(?P<parent_id>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<more>-.*)?"
).fullmatch


class TraceParent(NamedTuple):
    """The trace of a request, and the span of its sender. `is_sampled`: the sender records it."""

    trace_id: str
    parent_id: str
    is_sampled: bool


def parse_trace_id(values: Sequence[str]) -> str | None:
    """Read the trace id from the values of `traceparent`; None for an invalid header."""
    found = parse_traceparent(values)
    return None if found is None else found.trace_id


def parse_traceparent(values: Sequence[str]) -> TraceParent | None:
    """Read the values of `traceparent`; None for an invalid header.

    Source: W3C Trace Context §3.2: version ff and ids of zeros are none, later versions may go on.
    """
    match = _match_traceparent(values[0].strip()) if len(values) == 1 else None
    if match is None or match["version"] == "ff":
        return None
    if match["version"] == "00" and match["more"] is not None:
        return None
    if not (match["trace_id"].strip("0") and match["parent_id"].strip("0")):
        return None
    return TraceParent(match["trace_id"], match["parent_id"], bool(int(match["flags"], 16) & 1))
