"""A few faults between the hosts of a ledger and its copies; `networks` has them all."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.faults.copies import Copies
from tests.faults.hosts import network
from tests.faults.networks import (
    FAULTS,
    HOSTS,
    Fault,
    run_case,
    run_wiped_host,
    table,
    toxic_faults,
)
from tests.faults.toxics import HOST

QUICK = (
    "the link to the mirror loses everything",
    "the bucket answers with an old checkpoint",
)

TOXIC = (
    "between the ledger and its mirrors: every second connection is reset after 200 ms",
    "between the ledger and its mirrors: half-open: nothing comes, and no end",
    "between the ledger and its mirrors: 500 ms ± 250 ms later",
    "to the bucket: 20 KB/s",
    "to the bucket: in pieces of 32 to 96 bytes, 1 ms between two",
)
FAULT_S = 0.5


def _named(names: Iterable[str], faults: Iterable[Fault]) -> list[Fault]:
    by_name = {each.name: each for each in faults}
    return [by_name[name] for name in names]


@pytest.mark.hosts
@pytest.mark.timeout(900)
def test_no_fault_between_hosts_loses_what_was_confirmed(tmp_path: Path) -> None:
    faults = _named(QUICK, FAULTS)
    with network(*HOSTS) as hosts, Copies(hosts, tmp_path) as copies:
        results = [run_case(copies, each, seconds=FAULT_S) for each in faults]
        results += run_wiped_host(copies)
    assert [each for each in results if not each.is_right] == [], table(results)
    # A copy that was not asked has answered nothing that is wrong.
    assert all(each.answers for each in results[:-1])


@pytest.mark.hosts
@pytest.mark.toxiproxy
@pytest.mark.timeout(900)
def test_no_slow_or_broken_connection_loses_what_was_confirmed(tmp_path: Path) -> None:
    faults = _named(TOXIC, toxic_faults())
    with network(*HOSTS, HOST) as hosts, Copies(hosts, tmp_path) as copies:
        results = [run_case(copies, each, seconds=FAULT_S) for each in faults]
    assert [each for each in results if not each.is_right] == [], table(results)
    assert all(each.answers for each in results)
