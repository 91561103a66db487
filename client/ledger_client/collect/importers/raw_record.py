"""Records of other systems: read strictly, and kept in the event.

A record that nests too deep for `context.original`, or has a value that no event may have, is kept
as its JSON text in `context.original_text`. It is left out only where the leaf would be too long,
and `context.original_omitted` gives the reason.
"""

from typing import Any

from ledger_core.event.canonical import LEAF_BYTES_MAX, decode_event_object
from ledger_core.event.diagnostics import parse_json
from ledger_core.event.model import EventError

RECEIVED_BYTES_MAX = 2048
"""Left free in the leaf for the server's part: `by` of 256 characters, each an escape."""
INTEGER_CHARS_MAX = 1000


def read_record(raw: bytes) -> dict[str, Any]:
    """Read one JSON object, in which no key stands twice.

    Raises: EventError.
    """
    record = parse_json(raw, read_object=_read_object, read_integer=_read_integer)
    if not isinstance(record, dict):
        raise EventError("a record is a JSON object", rule="wrong-type")
    return record


def add_original(
    event: dict[str, Any], *, context: dict[str, Any], record: dict[str, Any], text: str
) -> dict[str, Any]:
    """Add the context, with the record in the first form that the limits allow.

    Raises: EventError if the ledger refuses the event even without the record.
    """
    for original in ({"original": record}, {"original_text": text}):
        whole = {**event, "context": {**context, **original}}
        try:
            _, event_json = decode_event_object(whole)
        except EventError as error:
            if error.rule != "leaf-too-large" and not error.field.startswith("context.original"):
                raise
            continue
        if len(event_json) <= LEAF_BYTES_MAX - RECEIVED_BYTES_MAX:
            return whole
    omitted = f"the record has {len(text)} bytes, too many for a leaf of {LEAF_BYTES_MAX}"
    whole = {**event, "context": {**context, "original_omitted": omitted}}
    decode_event_object(whole)
    return whole


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise EventError("a key stands twice in one object", rule="repeated-key")
    return members


def _read_integer(digits: str) -> int:
    if len(digits) > INTEGER_CHARS_MAX:
        raise EventError(
            f"a number has {len(digits)} digits",
            rule="number",
            limit=INTEGER_CHARS_MAX,
            got=len(digits),
        )
    return int(digits)
