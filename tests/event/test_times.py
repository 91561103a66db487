"""The one text of a time, and how late an event was received."""

import pytest

from ledger_core.event.times import LATE_S, is_canonical_time, late_s

TIME = "2026-11-25T02:03:36.123456Z"


def test_a_canonical_time_is_one_and_no_other_text_is() -> None:
    assert is_canonical_time(TIME)
    for other in (f"{TIME}\n", TIME.lower(), TIME.replace("-25T", "-32T"), TIME[:-2] + "Z"):
        assert not is_canonical_time(other)


@pytest.mark.parametrize(
    ("received", "late"),
    [
        (TIME, None),
        ("2026-11-25T02:59:59.999999Z", None),
        ("2026-11-25T03:03:36.123456Z", None),
        ("2026-11-25T03:03:37.123456Z", LATE_S + 1),
        ("2026-11-25T00:03:36.123456Z", -2 * LATE_S),
    ],
)
def test_a_receipt_is_late_by_more_than_an_hour(received: str, late: int | None) -> None:
    assert late_s(TIME, received) == late
