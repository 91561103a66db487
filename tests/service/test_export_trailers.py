"""The trailers of exports: no token pushes out those of another."""

import pytest

from ledger.service.export_trailers import KEPT_MAX, ExportTrailers
from ledger_core.search_answers import ExportTrailer

TRAILER = ExportTrailer(rows=1, sha256="0" * 64, tree_size=1)


@pytest.mark.anyio
async def test_the_oldest_of_the_token_with_the_most_is_dropped() -> None:
    trailers = ExportTrailers()
    await trailers.store("quiet", "q", TRAILER)
    for number in range(KEPT_MAX + 10):
        await trailers.store("greedy", str(number), TRAILER)
    assert await trailers.find("quiet", "q") == TRAILER
    assert await trailers.find("greedy", "10") is None
    assert await trailers.find("greedy", "11") == TRAILER
    assert await trailers.find("greedy", str(KEPT_MAX + 9)) == TRAILER
