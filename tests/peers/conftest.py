"""Witnesses that other people wrote, for tests under @pytest.mark.go."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from tests.peers.witnesses import PeerWitness, litewitness, omniwitness

StartWitness = Callable[[Sequence[str]], PeerWitness]


@pytest.fixture
def start_litewitness() -> Iterator[StartWitness]:
    """Starts a litewitness that knows the logs of these vkeys."""
    with ExitStack() as stack:
        yield lambda vkeys: stack.enter_context(litewitness(vkeys))


@pytest.fixture
def start_omniwitness() -> Iterator[StartWitness]:
    """Starts an omniwitness, with Ed25519 and ML-DSA-44, that knows the logs of these vkeys."""
    with ExitStack() as stack:
        yield lambda vkeys: stack.enter_context(omniwitness(vkeys))
