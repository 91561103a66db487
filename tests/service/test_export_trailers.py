"""The trailers of exports: no token pushes out those of another."""

from ledger.service.export_trailers import KEPT_MAX, ExportTrailers
from ledger_core.api import ExportTrailer

TRAILER = ExportTrailer(rows=1, sha256="0" * 64, tree_size=1)


def test_the_oldest_of_the_token_with_the_most_is_dropped() -> None:
    trailers = ExportTrailers()
    trailers.keep("quiet", "q", TRAILER)
    for number in range(KEPT_MAX + 10):
        trailers.keep("greedy", str(number), TRAILER)
    assert trailers.find("quiet", "q") == TRAILER
    assert trailers.find("greedy", "10") is None
    assert trailers.find("greedy", "11") == TRAILER
    assert trailers.find("greedy", str(KEPT_MAX + 9)) == TRAILER
