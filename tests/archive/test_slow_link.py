"""A bucket behind a slow link: what takes longer than `timeout_s` arrives nevertheless."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ledger.object_storage.object_store import Bucket
from ledger_core.tlog.errors import UnavailableError
from tests.archive.archiving import place_of
from tests.archive.seaweed import ObjectServer
from tests.faults.hosts import Host
from tests.faults.toxics import Toxic, Toxiproxy, toxiproxy

RATE_KB_S = 300
TIMEOUT_S = 2.0
LARGE = bytes(range(256)) * 3_200
"""0.8 MB: 2.7 s at that rate, and the limit is ten times the time-out."""

pytestmark = pytest.mark.toxiproxy


@pytest.fixture
def proxy() -> Iterator[Toxiproxy]:
    """toxiproxy on this machine."""
    with ThreadPoolExecutor(1) as threads, toxiproxy(Host("here", "127.0.0.1", 0, threads)) as made:
        yield made


@pytest.fixture
def bucket_behind(proxy: Toxiproxy, store: ObjectServer) -> Bucket:
    """A bucket whose connections lead over the proxy `bucket`."""
    place = place_of(proxy.lead("bucket", store.endpoint), store.make_bucket())
    return Bucket(place._replace(timeout_s=TIMEOUT_S))


def test_a_large_object_is_sent_and_read_over_a_slow_link(
    proxy: Toxiproxy, bucket_behind: Bucket
) -> None:
    proxy.add("bucket", Toxic("bandwidth", {"rate": RATE_KB_S}))

    async def send_and_read() -> None:
        assert await bucket_behind.create("large", LARGE)
        found = await bucket_behind.get("large", bytes_max=len(LARGE))
        assert found is not None
        assert found.data == LARGE
        part = await bucket_behind.get_range("large", start=256, length=len(LARGE))
        assert part == LARGE[256:]

    asyncio.run(send_and_read())


def test_a_bucket_that_falls_silent_is_given_up(proxy: Toxiproxy, bucket_behind: Bucket) -> None:
    async def read() -> None:
        assert await bucket_behind.create("large", LARGE)
        # Half-open: the connection stays, and nothing comes.
        proxy.add("bucket", Toxic("timeout", {"timeout": 0}, ("downstream",)))
        with pytest.raises(UnavailableError, match="does not answer in time"):
            await bucket_behind.get("large", bytes_max=len(LARGE))

    asyncio.run(read())
