"""The matcher of a query decides by what an entry says, without an index."""

import msgspec
import pytest

from ledger_core.query.parser import parse_query
from ledger_core.query.predicate import make_matcher

HAPPENED, RECEIVED = "2026-11-25T02:00:00.000000Z", "2026-11-25T05:00:00.000000Z"
LEAF = msgspec.json.encode(
    {
        "event": {
            "action": "a.b",
            "actor": {"id": "u"},
            "id": "00000000-0000-7000-8000-000000000001",
            "outcome": "success",
            "time": HAPPENED,
        },
        "received": {"by": "app", "time": RECEIVED},
        "v": 1,
    }
)


@pytest.mark.parametrize(("field", "time"), [("time", HAPPENED), ("received", RECEIVED)])
def test_a_range_of_time_is_that_of_its_field_and_its_end_is_not_in_it(
    field: str, time: str
) -> None:
    after = time.replace("00.000000", "00.000001")
    for text, is_found in (
        (f"{field}:{time}..{after}", True),
        (f"{field}:>={time}", True),
        (f"{field}:<{time}", False),
        (f"{field}:<{after}", True),
        (f"{field}:>={after}", False),
    ):
        assert make_matcher(parse_query(text))(0, LEAF) is is_found, text
