"""`@audited`: what comes of a call is recorded, and its caller gets what it would have got."""

import asyncio
import functools
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import django.core.exceptions
import fastapi
import flask
import pytest
import starlette.exceptions
import starlette.responses
import werkzeug.exceptions
from aiohttp import web

from ledger_client import (
    Recorder,
    audit_context,
    audited,
    diff,
    extend_audit_context,
    use_recorder,
)
from ledger_client.recording import recorder as recorder_module
from ledger_client.recording.exception_outcomes import outcome_of
from ledger_core.event.model import EventError
from tests.recording.conftest import OpenRecorder, Running

Recorded = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def recorder(open_recorder: OpenRecorder) -> Iterator[Recorder]:
    yield use_recorder(open_recorder())
    recorder_module._recorders.clear()


@pytest.fixture
def recorded(recorder: Recorder, running: Running, name: str) -> Recorded:
    def flushed() -> list[dict[str, Any]]:
        assert recorder.flush(30)
        return running.recorded(name)

    return flushed


def test_a_call_that_returns_is_a_success_and_the_arguments_say_on_what(recorded: Recorded) -> None:
    @audited(
        "payment.refunded",
        target=lambda payment_id: ("payment", payment_id),
        context=lambda amount, note: {"amount": amount, "note": note},
    )
    def refund(payment_id: str, amount: int, *, note: str = "none") -> int:
        """Give money back."""
        return amount * 2

    assert refund("p_1", 5) == 10
    assert refund(amount=6, payment_id="p_2", note="x") == 12
    assert (refund.__name__, refund.__doc__) == ("refund", "Give money back.")
    first, second = recorded()
    assert (first["action"], first["outcome"]) == ("payment.refunded", "success")
    assert first["targets"] == [{"type": "payment", "id": "p_1"}]
    assert first["context"] == {"amount": 5, "note": "none"}
    assert second["targets"] == [{"type": "payment", "id": "p_2"}]
    assert second["context"] == {"amount": 6, "note": "x"}


def test_changes_may_ask_for_what_was_returned(recorded: Recorded) -> None:
    @audited(
        "user.renamed",
        target=("user", "u_2"),
        changes=lambda name, result: diff({"name": name}, {"name": result}),
    )
    def rename(name: str) -> str:
        return name.upper()

    assert rename("jo") == "JO"
    (event,) = recorded()
    assert event["changes"] == [{"path": "/name", "before": "jo", "after": "JO"}]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("secret"), "failure"),
        (PermissionError("secret"), "denied"),
        (KeyboardInterrupt(), "unknown"),
        (SystemExit(403), "unknown"),
    ],
)
def test_an_exception_goes_on_to_the_caller_and_its_message_into_no_event(
    recorded: Recorded, error: BaseException, outcome: str
) -> None:
    @audited("door.opened", context={"door": 3})
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    (event,) = recorded()
    assert event["outcome"] == outcome
    assert event["context"] == {"door": 3, "error": type(error).__name__}
    assert "secret" not in str(event)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (django.core.exceptions.PermissionDenied(), "denied"),
        (werkzeug.exceptions.Forbidden(), "denied"),
        (werkzeug.exceptions.Unauthorized(), "denied"),
        (werkzeug.exceptions.NotFound(), "failure"),
        (werkzeug.exceptions.HTTPException(response=flask.Response("no", 403)), "denied"),
        (werkzeug.exceptions.HTTPException(response=flask.Response("", 302)), "success"),
        (werkzeug.exceptions.Forbidden(response=flask.Response("", 409)), "failure"),
        (werkzeug.exceptions.HTTPException(), "failure"),
        (starlette.exceptions.HTTPException(403), "denied"),
        (fastapi.HTTPException(401), "denied"),
        (fastapi.HTTPException(500), "failure"),
        (web.HTTPForbidden(), "denied"),
        (web.HTTPUnauthorized(), "denied"),
        (web.HTTPFound("/"), "success"),
        (web.HTTPInternalServerError(), "failure"),
        (asyncio.CancelledError(), "unknown"),
        (GeneratorExit(), "unknown"),
    ],
    ids=repr,
)
def test_what_the_frameworks_say(error: BaseException, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_abort_in_flask_is_a_denial() -> None:
    with pytest.raises(werkzeug.exceptions.HTTPException) as caught:
        flask.abort(403)
    assert outcome_of(caught.value) == "denied"


def test_what_another_service_refuses_us_is_a_failure_of_ours() -> None:
    class UpstreamError(Exception):
        status = status_code = code = 403

    assert outcome_of(UpstreamError()) == "failure"
    assert issubclass(aiohttp.ClientResponseError, Exception)


def test_no_framework_is_imported_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("django.core.exceptions", "werkzeug.exceptions", "aiohttp.web_exceptions"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert outcome_of(ValueError()) == "failure"
    assert "werkzeug.exceptions" not in sys.modules


@pytest.mark.anyio
async def test_a_coroutine_is_recorded_when_it_ends_with_the_context_of_its_task(
    recorded: Recorded,
) -> None:
    @audited("report.made", target=lambda number: ("report", number))
    async def make(number: int) -> int:
        await asyncio.sleep(0)
        if number == 3:
            raise PermissionError
        return number

    async def request(number: int) -> None:
        with audit_context(actor=("user", number)):
            await make(number)

    await asyncio.gather(*map(request, range(5)), return_exceptions=True)
    events = recorded()
    assert len(events) == 5
    for event in events:
        number = event["targets"][0]["id"]
        assert event["actor"]["id"] == number
        assert event["outcome"] == ("denied" if number == "3" else "success")


@pytest.mark.anyio
async def test_a_task_that_is_cancelled_has_an_unknown_outcome(recorded: Recorded) -> None:
    @audited("report.made")
    async def make() -> None:
        await asyncio.sleep(60)

    task = asyncio.create_task(make())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (event,) = recorded()
    assert (event["outcome"], event["context"]) == ("unknown", {"error": "CancelledError"})


def test_a_generator_is_one_event_at_its_end(recorded: Recorded) -> None:
    @audited("table.exported")
    def export() -> Generator[int, int, None]:
        got = yield 1
        yield got
        yield 3

    whole = export()
    assert next(whole) == 1
    assert recorded() == []
    assert whole.send(2) == 2
    assert list(whole) == [3]
    part = export()
    next(part)
    part.close()
    assert [event["outcome"] for event in recorded()] == ["success", "unknown"]


@pytest.mark.anyio
async def test_an_asynchronous_generator_is_one_event_at_its_end(recorded: Recorded) -> None:
    closed: list[str] = []

    @audited("table.exported")
    async def export(fault: bool) -> AsyncGenerator[int, int]:
        try:
            got = yield 1
            yield got
            if fault:
                raise PermissionError
        except ValueError:
            yield 99
        finally:
            closed.append("closed")

    whole: Any = export(False)
    assert await anext(whole) == 1
    assert await whole.asend(2) == 2
    assert [item async for item in whole] == []
    thrown: Any = export(False)
    await anext(thrown)
    assert await thrown.athrow(ValueError()) == 99
    assert [item async for item in thrown] == []
    with pytest.raises(PermissionError):
        [item async for item in export(True)]
    part: Any = export(False)
    await anext(part)
    await part.aclose()
    outcomes = [event["outcome"] for event in recorded()]
    assert outcomes == ["success", "success", "denied", "unknown"]
    assert len(closed) == 4


def test_a_generator_that_another_request_drops_is_an_event_of_the_one_that_began_it(
    recorded: Recorded,
) -> None:
    @audited("table.exported")
    def export() -> Generator[int, None, None]:
        yield 1

    begun = []
    with audit_context(fresh=True, actor="ann", request_id="r-1"):
        begun.append(export())
        next(begun[0])
        extend_audit_context(tenant="acme")
    with audit_context(fresh=True, actor="bea", request_id="r-2"):
        begun.clear()
    with audit_context(fresh=True, actor="cy"):
        part = export()
        next(part)
        extend_audit_context(actor="dee")
        part.close()
    other, own = recorded()
    assert (other["actor"], other["context"]["request_id"]) == ({"id": "ann"}, "r-1")
    assert own["actor"] == {"id": "dee"}


@pytest.mark.anyio
async def test_what_another_task_drops_is_an_event_of_the_task_that_began_it(
    recorded: Recorded,
) -> None:
    @audited("table.exported")
    async def export() -> AsyncGenerator[int, None]:
        yield 1

    @audited("table.loaded")
    async def load() -> None:
        await asyncio.Event().wait()

    async def begin() -> list[Any]:
        with audit_context(fresh=True, actor="ann"):
            part = export()
            await anext(part)
            waiting = load()
            waiting.send(None)
            return [part, waiting]

    async def drop(begun: list[Any]) -> None:
        with audit_context(fresh=True, actor="bea"):
            part, waiting = begun
            waiting.close()
            await part.aclose()

    await asyncio.create_task(drop(await begin()))
    assert [event["actor"] for event in recorded()] == [{"id": "ann"}, {"id": "ann"}]


class Payments:
    async def __call__(self, number: int) -> int:
        return await pay(number)


async def pay(number: int) -> int:
    await asyncio.sleep(0)
    if number == 3:
        raise PermissionError
    return number


def decorated(function: Callable[[int], Any]) -> Callable[[int], Any]:
    @functools.wraps(function)
    def call(number: int) -> Any:
        return function(number)

    return call


AWAITABLES: dict[str, Callable[[int], Any]] = {
    "a decorated coroutine function": decorated(pay),
    "an async __call__": Payments(),
    "a task": lambda number: asyncio.create_task(pay(number)),
    "a future of an executor": lambda number: asyncio.get_running_loop().run_in_executor(
        None, asyncio.run, pay(number)
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("key", AWAITABLES)
async def test_what_a_function_returns_is_waited_for(recorded: Recorded, key: str) -> None:
    call = audited("payment.sent", changes=lambda result: [{"path": "/n", "after": result}])(
        AWAITABLES[key]
    )
    with audit_context(actor=("user", "u_7")):
        assert await call(2) == 2
        with pytest.raises(PermissionError):
            await call(3)
    sent, denied = await asyncio.to_thread(recorded)
    assert (sent["outcome"], sent["changes"]) == ("success", [{"path": "/n", "after": 2}])
    assert (denied["outcome"], denied["context"]) == ("denied", {"error": "PermissionError"})
    assert sent["actor"]["id"] == denied["actor"]["id"] == "u_7"


@pytest.mark.anyio
async def test_an_awaitable_with_other_uses_is_returned_as_it_is(recorded: Recorded) -> None:
    class Query:
        def filter(self) -> "Query":
            return self

        def __await__(self) -> Generator[Any, None, int]:
            return pay(2).__await__()

    class Bare:
        def __await__(self) -> Generator[Any, None, int]:
            return pay(3).__await__()

    @audited("users.listed")
    def list_users() -> Any:
        return Query()

    async with aiohttp.ClientSession() as session:

        @audited("page.fetched")
        def fetch() -> Any:
            return session.get("http://127.0.0.1:1/")

        with audit_context(actor=("user", "u_7")):
            assert await list_users().filter() == 2
            with pytest.raises(aiohttp.ClientError):
                async with fetch():
                    pass
            with pytest.raises(PermissionError):
                await audited("payment.sent")(Bare)()
    events = await asyncio.to_thread(recorded)
    assert [(event["action"], event["outcome"]) for event in events] == [
        ("users.listed", "success"),
        ("page.fetched", "success"),
        ("payment.sent", "denied"),
    ]


def test_a_future_of_a_thread_is_recorded_when_it_is_done(recorded: Recorded) -> None:
    with ThreadPoolExecutor(1) as pool:

        @audited("payment.sent")
        def submit(number: int) -> Any:
            return pool.submit(asyncio.run, pay(number))

        with audit_context(actor=("user", "u_7")):
            assert submit(2).result() == 2
            with pytest.raises(PermissionError):
                submit(3).result()
    events = recorded()
    assert [event["outcome"] for event in events] == ["success", "denied"]
    assert {event["actor"]["id"] for event in events} == {"u_7"}


def test_a_method_may_name_its_self(recorded: Recorded) -> None:
    class Account:
        id = "a_1"

        @audited("account.closed", target=lambda self: ("account", self.id))
        def close(self) -> None: ...

    Account().close()
    (event,) = recorded()
    assert event["targets"] == [{"type": "account", "id": "a_1"}]


def test_without_a_recorder_the_function_is_called_and_an_error_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @audited("a.b")
    def work() -> int:
        return 1

    assert work() == 1
    assert "event_lost action=a.b reason=there is no recorder" in caplog.text


def test_a_mistake_in_the_event_does_not_keep_the_function_from_being_called(
    open_recorder: OpenRecorder,
) -> None:
    recorder = open_recorder(actor=None)

    @audited("a.b", recorder=recorder)
    def work() -> int:
        return 1

    assert work() == 1
    recorder.close(0.1)
    assert work() == 1


def test_where_it_is_required_the_function_is_not_called_without_a_recorder() -> None:
    called: list[int] = []

    @audited("a.b", require=True)
    def work() -> None:
        called.append(1)

    with pytest.raises(RuntimeError, match="use_recorder"):
        work()
    assert called == []


def test_where_it_is_required_a_mistake_shows_before_the_function_is_called(
    open_recorder: OpenRecorder,
) -> None:
    called: list[int] = []

    @audited("a.b", recorder=open_recorder(actor=None), require=True)
    def work() -> None:
        called.append(1)

    with pytest.raises(EventError, match="actor: is required"):
        work()
    assert called == []


def test_what_fails_around_the_call_is_logged_and_changes_nothing_for_the_caller(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    @audited(
        "a.b",
        target=lambda missing: ("x", missing),
        changes=lambda: [{"path": 1 / 0}],
        context=lambda number: {"number": number},
    )
    def work(number: int) -> int:
        return number

    assert work(5) == 5
    with pytest.raises(TypeError):
        work()  # type: ignore[call-arg] # The mistake of a caller.
    first, second = recorded()
    assert first["context"] == {"number": 5}
    assert "targets" not in first
    assert second["outcome"] == "failure"
    assert "audited_function_failed what=target error=KeyError" in caplog.text
    assert "audited_function_failed what=changes error=ZeroDivisionError" in caplog.text


class Unreadable:
    """An object that raises at any question."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


class HalfResponse(starlette.responses.Response):
    """A response that was never made as a whole."""

    status_code: Any = property(lambda _: 1 // 0)
    headers: Any = property(lambda _: 1 // 0)

    def __init__(self) -> None:
        """Sets nothing."""


class HalfError(starlette.exceptions.HTTPException):
    status_code: Any = property(lambda _: 1 // 0)

    def __init__(self) -> None:
        """Sets nothing."""


class AskedMeta(type):
    def __getattr__(cls, name: str) -> Any:
        raise RuntimeError(name)


class Asked(metaclass=AskedMeta):
    pass


class NoFuture:
    def add_done_callback(self) -> None:
        """Of another interface than that of futures."""


@pytest.mark.parametrize("made", [Unreadable, HalfResponse, Asked, NoFuture])
def test_a_result_that_raises_when_it_is_asked_is_returned(
    recorded: Recorded, made: Callable[[], object]
) -> None:
    result = made()

    @audited("a.b", actor="u_1")
    def work() -> object:
        return result

    assert work() is result
    assert [event["outcome"] for event in recorded()] == ["success"]


def test_an_exception_that_raises_when_it_is_asked_is_raised(recorded: Recorded) -> None:
    @audited("a.b", actor="u_1")
    def work() -> None:
        raise HalfError

    with pytest.raises(HalfError):
        work()
    assert [event["outcome"] for event in recorded()] == ["failure"]


def test_what_can_not_be_asked_or_is_no_mapping_does_not_reach_the_caller(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    @audited("a.b", actor="u_1", context=lambda: "no mapping")  # type: ignore[arg-type, return-value]
    def fail() -> None:
        raise KeyError("its own")

    @audited("a.b", actor="u_1", outcome=Unreadable)  # type: ignore[arg-type]
    def work() -> int:
        return 1

    with pytest.raises(KeyError, match="its own"):
        fail()
    assert work() == 1
    assert [event["outcome"] for event in recorded() if event["action"] == "a.b"] == ["success"]
    assert "event_invalid rule=wrong-type field=context" in caplog.text


def test_a_full_spool_does_not_reach_the_caller(open_recorder: OpenRecorder) -> None:
    recorder = open_recorder(url="http://127.0.0.1:1", on_full="raise", spool_bytes_max=1 << 18)

    @audited("a.b", recorder=recorder, reason="x" * 4000)
    def work() -> int:
        return 1

    assert sum(work() for _ in range(200)) == 200
    assert recorder.status.recorded < 100


def test_a_name_for_type_checkers_alone_in_an_annotation_is_not_asked_for() -> None:
    # Before Python 3.14 such a function has its annotations as texts.
    future = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"
    names: dict[str, Any] = {"audited": audited}
    exec(
        future
        + '@audited("a.b", target=lambda one: ("t", one))\ndef work(one: Missing): return one',
        names,
    )
    assert names["work"](1) == 1
