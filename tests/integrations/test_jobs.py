"""Jobs on the real libraries: each works in the audit context of the code that sent it."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arq
import celery
import dramatiq
import pytest
import redis
import rq
from celery.contrib.testing.worker import start_worker
from dramatiq.brokers.stub import StubBroker

from ledger_client import audit_context, audited, capture_scope, restored, use_recorder
from ledger_client.integrations.celery import audit_tasks
from ledger_client.integrations.rq import AuditedJob
from ledger_client.recording import recorder as recorder_module
from ledger_client.recording.context import restored_job
from ledger_client.testing import MemoryRecorder
from tests.integrations.test_django import run_app
from tests.recording.conftest import Running, name, open_recorder, running
from tests.waiting import until

__all__ = ["name", "open_recorder", "running"]  # Fixtures.

JO = {"type": "user", "id": "jo"}
PROCESS = {"type": "process", "id": "worker"}


@pytest.fixture
def recorder() -> Iterator[MemoryRecorder]:
    recorder = MemoryRecorder(actor=("process", "worker"))
    use_recorder(recorder)
    yield recorder
    recorder_module._recorders.clear()


@pytest.fixture(scope="module")
def celery_app() -> Iterator[celery.Celery]:
    app = celery.Celery("shop", broker="memory://", backend="cache+memory://")
    app.conf.worker_hijack_root_logger = False
    audit_tasks()
    audit_tasks()

    @app.task(name="refund")  # type: ignore[untyped-decorator, unused-ignore] # no types
    def refund(payment_id: str) -> None:
        pay_back(payment_id)

    @app.task(name="refund_all", bind=True, max_retries=1)  # type: ignore[untyped-decorator, unused-ignore] # no types
    def refund_all(self: Any) -> None:
        refund.delay("of another task")
        if not self.request.retries:
            raise self.retry(countdown=0)
        pay_back("after a retry")

    with start_worker(app, perform_ping_check=False, pool="solo"):
        yield app


@audited("payment.refunded", target=lambda payment_id: ("payment", payment_id))
def pay_back(payment_id: str) -> None:
    pass


def test_a_celery_task_has_the_actor_of_its_sender(
    celery_app: celery.Celery, recorder: MemoryRecorder
) -> None:
    with audit_context(actor=("user", "jo"), source="203.0.113.9", request_id="r-1"):
        celery_app.tasks["refund"].delay("p_1")
    celery_app.tasks["refund"].delay("p_2")
    until(lambda: len(recorder.events) == 2)
    first, second = recorder.events
    assert (first["actor"], first["source"]) == (JO, {"ip": "203.0.113.9"})
    assert first["context"]["request_id"] == "r-1"
    assert first["context"]["task"] == "refund"
    assert first["context"]["task_id"]
    assert second["actor"] == PROCESS
    assert "source" not in second
    assert "request_id" not in second["context"]


def test_retries_and_the_tasks_of_a_task_keep_it(
    celery_app: celery.Celery, recorder: MemoryRecorder
) -> None:
    with audit_context(actor=("user", "jo")):
        celery_app.tasks["refund_all"].delay()
    until(lambda: len(recorder.events) == 3)
    assert [event["actor"] for event in recorder.events] == [JO] * 3
    assert {event["targets"][0]["id"] for event in recorder.events} == {
        "of another task",
        "after a retry",
    }


def test_an_eager_task_runs_in_its_callers_context(
    celery_app: celery.Celery, recorder: MemoryRecorder
) -> None:
    with audit_context(actor=("user", "jo")):
        celery_app.tasks["refund"].apply(args=("p_1",))
        pay_back("p_2")
    assert [event["actor"] for event in recorder.events] == [JO, JO]


def test_an_actor_that_can_not_be_found_keeps_no_task_from_being_sent(
    celery_app: celery.Celery, recorder: MemoryRecorder
) -> None:
    def find() -> str:
        raise LookupError("no session")

    with audit_context(actor=find, tenant="t_1"):
        celery_app.tasks["refund"].delay("p_1")
    until(lambda: len(recorder.events) == 1)
    assert (recorder.events[0]["actor"], recorder.events[0]["tenant"]) == (
        {"id": "unknown"},
        "t_1",
    )


@pytest.mark.parametrize("scope", [None, 5, "x", [1], {"fresh": True}, {"context": 5, "source": 5}])
def test_a_message_without_a_context_of_ours_starts_with_an_empty_one(
    recorder: MemoryRecorder, scope: object
) -> None:
    with audit_context(actor=("user", "jo")), restored_job(scope, task="refund"):
        recorder.record("a.b")
    assert recorder.events[0]["actor"] == PROCESS
    assert recorder.events[0]["context"] == {"task": "refund"}


@pytest.mark.parametrize(
    "member",
    [
        {"actor": {"id": ["x"]}},
        {"actor": {"id": "x", "unknown": 1}},
        {"actor": 1.5},
        {"actor": None},
        {"tenant": 5},
        {"reason": [1]},
        {"source": {"ip": 5}},
        {"source": {"unknown": "x"}},
    ],
    ids=json.dumps,
)
def test_no_message_keeps_what_its_job_does_out_of_the_log(
    recorder: MemoryRecorder, member: dict[str, Any]
) -> None:
    good = {"actor": JO, "tenant": "t_1", "reason": "x" * 9_000, "source": {"ip": "no address"}}
    with restored_job({**good, **member}, task="refund"):
        recorder.record("a.b")
    (event,) = recorder.events
    (name,) = member
    assert event["actor"] == (PROCESS if name == "actor" else JO)
    assert event.get("tenant") == (None if name == "tenant" else "t_1")
    assert event.get("reason", "").startswith("" if name == "reason" else "xxx")
    assert event["context"]["task"] == "refund"


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    program = shutil.which("redis-server")
    assert program, "apt-get install redis-server"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder = tmp_path_factory.mktemp("redis")
    arguments = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL) as process:
        deadline_s = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
        yield port
        process.terminate()


@pytest.mark.redis
def test_an_rq_job_has_the_actor_of_its_enqueue(redis_port: int, recorder: MemoryRecorder) -> None:
    with redis.Redis(port=redis_port) as connection:
        queue = rq.Queue("simple", connection=connection, job_class=AuditedJob)
        with audit_context(actor=("user", "jo"), source="203.0.113.9"):
            job = queue.enqueue(pay_back, "p_1")
        queue.enqueue(pay_back, "p_2")
        with audit_context(actor=("user", "who started the worker")):
            worker = rq.SimpleWorker([queue], connection=connection, job_class=AuditedJob)
            worker.work(burst=True, logging_level="ERROR")
    first, second = recorder.events
    assert (first["actor"], first["source"]) == (JO, {"ip": "203.0.113.9"})
    assert first["context"] == {"task": f"{__name__}.pay_back", "task_id": job.id}
    assert second["actor"] == PROCESS
    assert "source" not in second


@pytest.mark.redis
def test_jobs_of_one_meta_have_each_the_actor_of_its_enqueue(
    redis_port: int, recorder: MemoryRecorder
) -> None:
    meta = {"team": "payments"}
    with redis.Redis(port=redis_port) as connection:
        queue = rq.Queue("meta", connection=connection, job_class=AuditedJob)
        for user in ("alice", "jo"):
            with audit_context(actor=("user", user)):
                job = queue.enqueue(pay_back, "p_1", meta=meta)
                assert job.meta["team"] == "payments"
        # Somebody sends a job again, with all that another job had.
        queue.enqueue(pay_back, "p_2", meta=job.meta)
        worker = rq.SimpleWorker([queue], connection=connection, job_class=AuditedJob)
        worker.work(burst=True, logging_level="ERROR")
    assert meta == {"team": "payments"}
    found = [event["actor"] for event in recorder.events]
    assert found == [{"type": "user", "id": "alice"}, JO, PROCESS]


RQ_WORKER = """
import sys
import redis, rq
from ledger_client import Recorder, use_recorder
from ledger_client.integrations.rq import AuditedJob
port, url, token, spool, policy, tenant = sys.argv[1:]
use_recorder(Recorder(url, token, spool=spool, policy=policy, actor=("process", "worker"),
                      tenant=tenant, linger_s=0.01))
connection = redis.Redis(port=int(port))
rq.Worker(["forked"], connection=connection, job_class=AuditedJob).work(burst=True)
"""


@pytest.mark.redis
def test_the_child_that_rq_forks_for_a_job_sends_its_events(
    redis_port: int, running: Running, name: str, tmp_path: Path
) -> None:
    with redis.Redis(port=redis_port) as connection:
        queue = rq.Queue("forked", connection=connection, job_class=AuditedJob)
        with audit_context(actor=("user", "jo")):
            queue.enqueue(pay_back, "p_1")
    settings = (redis_port, running.url, running.token, tmp_path / "spool", running.policy, name)
    subprocess.run(
        [sys.executable, "-c", RQ_WORKER, *map(str, settings)],
        check=True,
        capture_output=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    (event,) = running.recorded(name)
    assert (event["actor"], event["action"]) == (JO, "payment.refunded")


async def refund_by_arq(_: dict[Any, Any], payment_id: str, scope: dict[str, Any]) -> None:
    with restored(scope):
        pay_back(payment_id)


@pytest.mark.redis
@pytest.mark.filterwarnings("default:Call to deprecated close:DeprecationWarning")  # arq's own
def test_an_arq_job_may_carry_it(redis_port: int, recorder: MemoryRecorder) -> None:
    server = arq.connections.RedisSettings(port=redis_port)

    async def send_and_work() -> None:
        pool = await arq.create_pool(server)
        with audit_context(actor=("user", "jo"), request_id="r-1"):
            await pool.enqueue_job("refund_by_arq", "p_1", capture_scope())
        await pool.enqueue_job("refund_by_arq", "p_2", capture_scope())
        await pool.aclose(close_connection_pool=True)
        jobs: list[Any] = [refund_by_arq]
        with audit_context(actor=("user", "who started the worker")):
            worker = arq.Worker(jobs, redis_settings=server, burst=True, handle_signals=False)
            await worker.async_run()
        await worker.close()

    asyncio.run(send_and_work())
    by_payment = {event["targets"][0]["id"]: event for event in recorder.events}
    assert len(recorder.events) == 2
    first, second = by_payment["p_1"], by_payment["p_2"]
    assert (first["actor"], first["context"]) == (JO, {"request_id": "r-1"})
    assert second["actor"] == PROCESS
    assert "context" not in second


def test_a_task_of_django_may_carry_it() -> None:
    first, second, third = run_app("tasks")
    assert (first["actor"], first["context"]) == (JO, {"request_id": "r-jo"})
    assert (second["actor"]["id"], second["targets"][0]["id"]) == ("kim", "of kim")
    assert (third["actor"], third["targets"][0]["id"]) == (PROCESS, "of nobody")


def test_a_dramatiq_message_may_carry_it(recorder: MemoryRecorder) -> None:
    broker = StubBroker()

    @dramatiq.actor(broker=broker)  # type: ignore[untyped-decorator, unused-ignore] # not installed
    def refund(payment_id: str, scope: dict[str, Any]) -> None:
        with restored(scope):
            pay_back(payment_id)

    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    with audit_context(actor=("user", "jo"), request_id="r-1"):
        refund.send("p_1", capture_scope())
    broker.join(refund.queue_name)
    worker.join()
    worker.stop()
    (event,) = recorder.events
    assert (event["actor"], event["context"]) == (JO, {"request_id": "r-1"})


@pytest.mark.parametrize("actor", [["user", "jo"], {"type": "user", "id": "jo"}, ("user", "jo")])
def test_an_actor_may_have_been_through_json(recorder: MemoryRecorder, actor: Any) -> None:
    recorder.record("a.b", actor=json.loads(json.dumps(actor)))
    with audit_context(actor=json.loads(json.dumps(actor))):
        scope = json.loads(json.dumps(capture_scope()))
    with restored(scope):
        recorder.record("a.b", targets=json.loads(json.dumps([actor])))
    assert [event["actor"] for event in recorder.events] == [JO, JO]
    assert recorder.events[1]["targets"] == [JO]
