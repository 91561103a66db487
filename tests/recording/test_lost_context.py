"""Where the audit context is lost, the event says so; and how it is handed on."""

import asyncio
import logging
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from logging.handlers import MemoryHandler
from typing import Annotated, Any

import greenlet
import pytest
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ledger_client import (
    AuditContextFilter,
    AuditHandler,
    audit_context,
    audited,
    extend_audit_context,
    with_audit_context,
)
from ledger_client.integrations.asgi import AuditMiddleware
from ledger_client.integrations.sqlalchemy import AuditedSession
from ledger_client.recording import recorder as recorder_module
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


def the_thread_says(*events: Any) -> None:
    for event in events:
        assert (event["actor"], event["context"][LOST]) == (DEFAULT, "none in the-thread")


@pytest.mark.parametrize("kind", ["function", "coroutine", "generator"])
def test_an_audited_call_says_so_too(recorder: MemoryRecorder, kind: str) -> None:
    @audited("a.b", recorder=recorder)
    def call() -> None: ...

    @audited("a.b", recorder=recorder)
    async def wait() -> None: ...

    @audited("a.b", recorder=recorder)
    def step() -> Iterator[int]:
        yield 1

    @audited("a.b", recorder=recorder, actor=("user", "ann"))
    def of_ann() -> None: ...

    ways = {
        "function": call,
        "coroutine": lambda: asyncio.run(wait()),
        "generator": lambda: list(step()),
    }
    with audit_context(actor=("user", "jo")):
        in_a_thread(ways[kind])
        in_a_thread(of_ann)
    lost, told = recorder.events
    the_thread_says(lost)
    assert told["actor"]["id"] == "ann"
    assert "context" not in told


def test_a_line_of_the_log_says_so_also_behind_a_buffer(recorder: MemoryRecorder) -> None:
    log = logging.getLogger("app.lost_context")
    log.handlers = [AuditHandler(recorder)]
    buffer = MemoryHandler(100, flushLevel=logging.CRITICAL, target=AuditHandler(recorder))
    buffer.addFilter(AuditContextFilter())
    log.addHandler(buffer)
    with audit_context(actor=("user", "jo")):
        in_a_thread(lambda: log.warning("x", extra={"action": "a.b"}))
        in_a_thread(lambda: log.warning("x", extra={"action": "a.b", "actor": ("user", "ann")}))
    buffer.flush()
    lost, told, *later = recorder.events
    the_thread_says(lost, later[0])
    for event in (told, later[1]):
        assert event["actor"]["id"] == "ann"
        assert LOST not in event["context"]


def test_a_write_of_many_rows_says_so_after_its_commit(
    recorder: MemoryRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Base(DeclarativeBase): ...

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)

    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    monkeypatch.setattr(recorder_module, "_recorders", [recorder])

    def write() -> None:
        with AuditedSession(engine) as session:
            session.execute(insert(Order).values(id=1))
            session.commit()

    with audit_context(actor=("user", "jo")):
        in_a_greenlet(write)
    engine.dispose()
    (event,) = recorder.events
    assert (event["actor"], event["context"][LOST]) == (DEFAULT, "none in MainThread")


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

    received = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if not received:
            await asyncio.Event().wait()  # The client stays until it has its answer.
        return received.pop()

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
    @audited("page.opened", recorder=recorder)
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
    assert len(shown) == 3
    for event in shown:
        assert event["actor"]["id"] == "anonymous"
        assert event["context"][LOST] == "actor: set in another thread or task"


def test_so_is_what_a_synchronous_generator_opens_in_steps_of_several_threads(
    recorder: MemoryRecorder,
) -> None:
    def find_user() -> Iterator[str]:
        with audit_context(actor=("user", "jo")):
            recorder.record("user.found")
            yield "jo"

    def lines() -> Iterator[str]:
        with audit_context(actor=("user", "ann")):
            yield "1"
            recorder.record("line.sent")
            yield "2"

    app = FastAPI()

    @app.get("/")
    @audited("page.opened", recorder=recorder)
    async def show(user: Annotated[str, Depends(find_user)]) -> StreamingResponse:
        recorder.record("page.shown")
        return StreamingResponse(lines())

    app.add_middleware(AuditMiddleware)
    assert asyncio.run(status_of(app)) == 200
    found, *shown = recorder.events
    assert found["actor"] == JO
    assert LOST not in found["context"]
    assert {event["action"] for event in shown} == {"page.shown", "page.opened", "line.sent"}
    for event in shown:
        assert event["actor"]["id"] == "anonymous"
        assert event["context"][LOST] == "actor: set in another thread or task"


def test_what_a_thread_sets_for_its_own_work_is_missed_nowhere(recorder: MemoryRecorder) -> None:
    began, ends = threading.Event(), threading.Event()

    def work() -> None:
        with audit_context(actor=("user", "ann")):
            began.set()
            assert ends.wait(60)
            recorder.record("work.done")

    with audit_context(actor=("user", "jo")):
        thread = threading.Thread(target=copy_context().run, args=(work,))
        thread.start()
        assert began.wait(60)
        recorder.record("page.shown")
        ends.set()
        thread.join()
        recorder.record("page.closed")
    assert [event["actor"]["id"] for event in recorder.events] == ["jo", "ann", "jo"]
    assert not any("context" in event for event in recorder.events)


@contextmanager
def acting_as(user: str) -> Iterator[None]:
    with audit_context(actor=("user", user)):
        yield


def test_blocks_of_an_own_context_manager_are_missed_in_no_other_thread(
    recorder: MemoryRecorder,
) -> None:
    step = threading.Barrier(4)

    def work(user: str | None) -> None:
        step.wait(60)
        with acting_as(user) if user else nullcontext():
            step.wait(60)
            recorder.record("work.done")
            step.wait(60)

    async def work_all() -> None:
        tasks = [asyncio.create_task(asyncio.to_thread(work, user)) for user in ("ann", "bo", None)]
        await asyncio.to_thread(lambda: (step.wait(60), step.wait(60)))
        recorder.record("work.shown")
        await asyncio.gather(asyncio.to_thread(step.wait, 60), *tasks)

    with audit_context(actor=("user", "jo")):
        asyncio.run(work_all())
    assert sorted(event["actor"]["id"] for event in recorder.events) == ["ann", "bo", "jo", "jo"]
    assert not any("context" in event for event in recorder.events)


def test_an_actor_of_its_own_is_not_missed_where_another_task_sets_one(
    recorder: MemoryRecorder,
) -> None:
    async def work(user: str) -> None:
        extend_audit_context(actor=("user", user))

    async def work_all() -> None:
        await asyncio.gather(work("ann"), work("bo"))
        with audit_context(actor=("user", "cy")):
            recorder.record("work.done")
        recorder.record("work.shown")

    with audit_context(actor=("user", "jo")):
        asyncio.run(work_all())
    done, shown = recorder.events
    assert (done["actor"]["id"], shown["actor"]["id"]) == ("cy", "jo")
    assert "context" not in done
    assert LOST in shown["context"]


def test_a_refusal_behind_a_middleware_of_starlette_says_that_its_actor_was_set_in_a_task(
    recorder: MemoryRecorder,
) -> None:
    async def find_user() -> None:
        extend_audit_context(actor=("user", "jo"))

    async def refuse() -> None:
        raise HTTPException(403)

    app = FastAPI()

    @app.get("/", dependencies=[Depends(find_user), Depends(refuse)])
    @audited("page.opened", recorder=recorder)
    async def show() -> None: ...

    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    app.add_middleware(AuditMiddleware)
    assert asyncio.run(status_of(app)) == 403
    (refused,) = recorder.events
    assert (refused["outcome"], refused["actor"]["id"]) == ("denied", "anonymous")
    assert refused["context"][LOST] == "actor: set in another thread or task"


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


@pytest.mark.parametrize("is_async", [True, False])
def test_an_event_of_the_handler_of_all_exceptions_says_that_it_is_outside(
    recorder: MemoryRecorder, *, is_async: bool
) -> None:
    app = FastAPI()

    @app.get("/")
    async def show() -> None:
        recorder.record("page.shown")
        raise LookupError

    async def note_async(_: Request, __: Exception) -> Response:
        recorder.record("page.failed")
        return Response(status_code=500)

    def note(_: Request, __: Exception) -> Response:
        recorder.record("page.failed")
        return Response(status_code=500)

    app.add_exception_handler(Exception, note_async if is_async else note)
    app.add_middleware(AuditMiddleware)
    with pytest.raises(LookupError):
        copy_context().run(asyncio.run, status_of(app))
    recorder.record("app.stopped")
    shown, failed, stopped = recorder.events
    assert LOST not in shown["context"]
    assert (failed["actor"], failed["context"]) == (
        DEFAULT,
        {LOST: "none outside of the middleware"},
    )
    assert "context" not in stopped
