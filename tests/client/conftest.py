"""A real ledger, served by a process of its own, and both clients for it."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger_client import (
    AsyncLedgerClient,
    Consistency,
    Entry,
    Inclusion,
    LedgerClient,
    Receipt,
    Rejected,
)
from ledger_client.plans.append import AnyEvent
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.policy import VerifiedHead
from tests.served import FLAGS, ORIGIN
from tests.served import ServedLedger as Running


class BlockingAsyncClient:
    """An `AsyncLedgerClient` with the methods of a `LedgerClient`, so that one test serves both."""

    def __init__(self, runner: asyncio.Runner, url: str, token: str | None, **options: Any) -> None:
        self._runner = runner
        self.inner = AsyncLedgerClient(url, token, **options)

    def append(self, event: AnyEvent, **options: Any) -> Receipt:
        return self._runner.run(self.inner.append(event, **options))

    def append_many(self, events: Iterable[AnyEvent], **options: Any) -> list[Receipt | Rejected]:
        return self._runner.run(self.inner.append_many(events, **options))

    def event(self, reference: int | str, **options: Any) -> Entry:
        return self._runner.run(self.inner.event(reference, **options))

    def events(self, start: int = 0, end: int | None = None, **options: Any) -> Iterator[Entry]:
        async def read() -> list[Entry]:
            return [entry async for entry in self.inner.events(start, end, **options)]

        return iter(self._runner.run(read()))

    def inclusion(
        self, index: int, *, tree_size: int | None = None, leaf_hash: Hash | None = None
    ) -> Inclusion:
        proving = self.inner.inclusion(index, tree_size=tree_size, leaf_hash=leaf_hash)
        return self._runner.run(proving)

    def consistency(self, old: bytes | str, new: bytes | str | None = None) -> Consistency:
        return self._runner.run(self.inner.consistency(old, new))

    def checkpoint(self) -> VerifiedHead:
        return self._runner.run(self.inner.checkpoint())

    @property
    def latest(self) -> VerifiedHead | None:
        return self.inner.latest

    def close(self) -> None:
        self._runner.run(self.inner.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self.inner)


Client = LedgerClient | BlockingAsyncClient
OpenClient = Callable[..., Client]


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One ledger for all tests of the client; it holds what others appended."""
    directory = tmp_path_factory.mktemp("ledger") / "ledger"
    token = make_ledger(directory, origin=ORIGIN)
    with Service(directory, listen="127.0.0.1:0", flags=FLAGS) as service:
        yield Running(service.url, token, directory)


@pytest.fixture(params=["sync", "async"])
def open_client(request: pytest.FixtureRequest) -> Iterator[OpenClient]:
    """Makes clients of both kinds; they are closed at the end."""
    clients: list[Client] = []
    with asyncio.Runner() as runner:

        def open_(url: str, token: str | None = None, **options: Any) -> Client:
            client: Client
            if request.param == "sync":
                client = LedgerClient(url, token, **options)
            else:
                client = BlockingAsyncClient(runner, url, token, **options)
            clients.append(client)
            return client

        yield open_
        for client in clients:
            client.close()


@pytest.fixture
def client(running: Running, open_client: OpenClient) -> Client:
    """A client with the ledger's policy and no state file."""
    return open_client(running.url, running.token, policy=running.policy)
