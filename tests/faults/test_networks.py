"""A few faults between the hosts of a ledger and its copies; `networks` has them all."""

from pathlib import Path

import pytest

from tests.faults.copies import Copies
from tests.faults.hosts import network
from tests.faults.networks import FAULTS, HOSTS, run_case, run_wiped_host, table

QUICK = (
    "the link to the mirror loses everything",
    "the bucket answers with an old checkpoint",
)


FAULT_S = 0.5


@pytest.mark.hosts
@pytest.mark.timeout(900)
def test_no_fault_between_hosts_loses_what_was_confirmed(tmp_path: Path) -> None:
    faults = [each for each in FAULTS if each.name in QUICK]
    assert len(faults) == len(QUICK)
    with network(*HOSTS) as hosts, Copies(hosts, tmp_path) as copies:
        results = [run_case(copies, each, seconds=FAULT_S) for each in faults]
        results += run_wiped_host(copies)
    assert [each for each in results if not each.is_right] == [], table(results)
    # A copy that was not asked has answered nothing that is wrong.
    assert all(each.answers for each in results[:-1])
