"""Reports on the service are shared by those who ask at once: each is work for every process."""

import asyncio

import pytest

from ledger.service.report import Report, SharedReport

pytestmark = pytest.mark.anyio
ASKING = 200


class Made:
    """Makes reports that are numbered by what had been asked when they were begun."""

    def __init__(self) -> None:
        self.asked = 0
        self.count = 0
        self.fails = False

    async def make(self) -> Report:
        self.count += 1
        begun = self.asked
        await asyncio.sleep(0)
        if self.fails:
            raise ValueError("no report")
        return Report(requests_in_flight=begun)


async def test_all_who_ask_at_once_share_a_report_that_was_begun_after_they_asked() -> None:
    made = Made()
    shared = SharedReport(made.make)

    async def ask() -> None:
        made.asked += 1
        number = made.asked
        assert (await shared.newest()).requests_in_flight >= number

    for waves in range(1, 6):
        await asyncio.gather(*(ask() for _ in range(ASKING)))
        assert made.count <= 2 * waves
    before = made.count
    await ask()
    assert made.count == before + 1


async def test_one_who_gives_up_and_one_that_fails_keep_no_other_from_a_report() -> None:
    made = Made()
    shared = SharedReport(made.make)
    gone, other = (asyncio.create_task(shared.newest()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    assert await other == Report()
    made.fails = True
    with pytest.raises(ValueError, match="no report"):
        await shared.newest()
    made.fails = False
    assert await shared.newest() == Report()
