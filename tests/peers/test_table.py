"""The table of requests to a witness, put to those that the public network runs."""

from collections.abc import Iterator

import pytest

from tests.peers.witnesses import PeerWitness, litewitness, omniwitness, sunlight
from tests.witness.asking import check_row
from tests.witness.table import ROWS, Row

pytestmark = pytest.mark.go

WITNESSES = {"litewitness": litewitness, "omniwitness": omniwitness, "sunlight": sunlight}


@pytest.fixture(scope="module", params=WITNESSES)
def witness(request: pytest.FixtureRequest) -> Iterator[tuple[str, PeerWitness]]:
    with WITNESSES[request.param]([row.log.vkey for row in ROWS]) as running:
        yield request.param, running


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_answer_is_that_of_the_table(witness: tuple[str, PeerWitness], row: Row) -> None:
    name, running = witness
    check_row(row, running.url, running.vkeys, witness=name)
