"""Each status of the specification, from our witness and from one that others wrote."""

from collections.abc import Iterator

import pytest

from tests.witness.asking import check_row
from tests.witness.table import DIFFERENCES, ROWS, Row
from tests.witness.witnesses import RunningWitness, aics_witness, our_witness

WITNESSES = {"ours": our_witness, "aics": aics_witness}


@pytest.fixture(scope="module", params=WITNESSES)
def witness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, RunningWitness]]:
    directory = tmp_path_factory.mktemp("witness") / "new"
    with WITNESSES[request.param](directory, [row.log for row in ROWS]) as running:
        yield request.param, running


def test_each_row_has_a_log_of_its_own_and_each_difference_its_row() -> None:
    origins = [row.log.origin for row in ROWS]
    assert len(set(origins)) == len(origins)
    named = {name for difference in DIFFERENCES for name in difference.rows}
    assert named <= {row.name for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_answer_is_that_of_the_specification(
    witness: tuple[str, RunningWitness], row: Row
) -> None:
    name, running = witness
    check_row(row, running.url, running.vkeys, witness=name)
