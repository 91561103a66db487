"""The tasks that a service runs beside its requests."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from ledger.runtime.tasks import beside
from ledger.service.engine import Engine
from ledger.service.http.problems import log_failure
from ledger.service.open_parts import Intake
from ledger.service.outbox import Outbox
from ledger.service.releasing import Releasing
from ledger.service.token_admin import revoke_revived


@asynccontextmanager
async def background(engine: Engine, intake: Intake) -> AsyncIterator[None]:
    """Run the tasks beside the requests; one that fails makes the service not ready."""
    outbox = Outbox(
        access=intake.access,
        ingest=intake.ingest,
        interval_s=engine.settings.outbox_interval_s,
    )
    releasing = Releasing(engine.paths, engine.sequencer)
    work = {"publisher": engine.publisher.run, "releasing": releasing.run}
    if engine.mirrored is None:
        enqueue_erasures(intake)
        # The log has the event of a token before anybody can use the token. The events of a
        # mirror's tokens wait: no log takes them unless the mirror is promoted.
        await outbox.append_waiting()
        work["outbox"] = outbox.run
    revoke_revived(engine.store, intake.access)
    async with beside(*(watched(engine, name, run()) for name, run in work.items())):
        yield


def enqueue_erasures(intake: Intake) -> None:
    """Put into the outbox the events of erasures whose process may have ended before it logged it.

    One that is logged by now becomes a duplicate, for its id is the same.
    """
    store = intake.private_fields.store
    unlogged = store.unlogged()
    if unlogged:
        store.complete_erasures()  # The key must be gone before the row that says so.
    for erasure in unlogged:
        intake.access.enqueue(erasure.event_json)
        store.finish(erasure)


async def watched(engine: Engine, name: str, work: Awaitable[None]) -> None:
    """Run a task; when it ends, the service is not ready."""
    try:
        await work
    except Exception as error:  # noqa: BLE001 - a task's top; /readyz reports it
        log_failure("task_failed", error, task=name)
    engine.broken.append(f"the task {name} has ended")
