"""Where the audit context is lost, the event says so; and how it is handed on."""

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import copy_context
from typing import Annotated, Any

import greenlet
import pytest
from fastapi import Depends, FastAPI

from ledger_client import audit_context, extend_audit_context, with_audit_context
from ledger_client.integrations.asgi import AuditMiddleware
from ledger_client.recording.context import LOST, capture_scope
from ledger_client.testing import MemoryRecorder

JO = {"type": "user", "id": "jo"}
DEFAULT = {"type": "process", "id": "shop"}


@pytest.fixture
def recorder() -> MemoryRecorder:
    return MemoryRecorder(actor=("process", "shop"))


def in_a_thread(work: Callable[[], Any]) -> None:
    thread = threading.Thread(target=work, name="the-thread")
    thread.start()
    thread.join()


def in_an_executor(work: Callable[[], Any]) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(thread_name_prefix="pool") as pool:
            await asyncio.get_running_loop().run_in_executor(pool, work)

    asyncio.run(run())


def in_a_greenlet(work: Callable[[], Any]) -> None:
    greenlet.greenlet(work).switch()


@pytest.mark.parametrize(
    ("run", "where"),
    [
        (in_a_thread, "the-thread"),
        (in_an_executor, "pool_0"),
        (in_a_greenlet, "MainThread"),
    ],
)
def test_an_event_says_that_its_actor_is_the_default_for_want_of_another(
    recorder: MemoryRecorder, run: Callable[[Callable[[], Any]], None], where: str
) -> None:
    with audit_context(actor=("user", "jo"), source="203.0.113.9"):
        run(lambda: recorder.record("a.b", context={"n": 1}))
        run(lambda: recorder.record("a.b", actor=("user", "ann")))
    lost, told = recorder.events
    assert lost["actor"] == DEFAULT
    assert lost["context"] == {"n": 1, LOST: f"none in {where}"}
    assert told["actor"]["id"] == "ann"
    assert "context" not in told


def test_where_nothing_is_lost_nothing_is_said(recorder: MemoryRecorder) -> None:
    with audit_context(actor=("user", "jo")):
        recorder.record("a.b")
        context = copy_context()
        in_a_thread(lambda: context.run(recorder.record, "a.b"))
        asyncio.run(asyncio.to_thread(recorder.record, "a.b"))
        extend_audit_context(actor=("user", "jo"))
        recorder.record("a.b")
    assert [event["actor"] for event in recorder.events] == [JO] * 4
    recorder.record("app.stopped")
    assert all("context" not in event for event in recorder.events)


async def status_of(app: FastAPI) -> int:
    """Ask an application for `/`, as an ASGI server does."""
    sent: list[Any] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "query_string": b"",
        "headers": [],
        "client": ("203.0.113.9", 1234),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])


def test_what_a_synchronous_dependency_of_fastapi_sets_is_missed(recorder: MemoryRecorder) -> None:
    def find_user() -> str:
        extend_audit_context(actor=("user", "jo"))
        recorder.record("user.found")
        return "jo"

    app = FastAPI()

    @app.get("/")
    async def show(user: Annotated[str, Depends(find_user)]) -> str:
        recorder.record("page.shown")
        with audit_context(reason="inner"):
            recorder.record("page.shown")
        return user

    app.add_middleware(AuditMiddleware)
    assert asyncio.run(status_of(app)) == 200
    found, *shown = recorder.events
    assert found["actor"] == JO
    assert LOST not in found["context"]
    for event in shown:
        assert event["actor"]["id"] == "anonymous"
        assert event["context"][LOST] == "actor: set in another thread"


@pytest.mark.parametrize("way", ["submit", "map", "run_in_executor", "default"])
def test_a_wrapped_executor_hands_it_on(recorder: MemoryRecorder, way: str) -> None:
    async def in_loop(pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        if way == "default":
            loop.set_default_executor(pool)
        await loop.run_in_executor(None if way == "default" else pool, recorder.record, "a.b")

    with with_audit_context(ThreadPoolExecutor(1)) as pool:
        with audit_context(actor=("user", "jo"), request_id="r-1"):
            if way == "submit":
                pool.submit(recorder.record, "a.b").result()
            elif way == "map":
                list(pool.map(recorder.record, ["a.b"]))
            else:
                asyncio.run(in_loop(pool))
        if way == "submit":
            pool.submit(recorder.record, "a.b").result()
    first, *later = recorder.events
    assert (first["actor"], first["context"]) == (JO, {"request_id": "r-1"})
    for event in later:
        assert event["actor"] == DEFAULT
        assert event["context"][LOST].startswith("none in ThreadPoolExecutor")


def test_so_does_one_of_processes() -> None:
    spawn = multiprocessing.get_context("spawn")
    pool: Executor = with_audit_context(ProcessPoolExecutor(1, mp_context=spawn))
    with pool, audit_context(actor=lambda: ("user", "jo"), request_id="r-1"):
        found = pool.submit(capture_scope).result()
    assert found == {"actor": JO, "context": {"request_id": "r-1"}}
