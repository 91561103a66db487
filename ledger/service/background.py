"""The tasks that a service runs beside its requests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from ledger.service.context import ServiceContext
from ledger.service.http.problems import log_failure
from ledger.service.outbox import Outbox
from ledger.service.token_admin import revoke_revived


@asynccontextmanager
async def background(context: ServiceContext) -> AsyncIterator[None]:
    """Run the tasks beside the requests; one that fails makes the service not ready."""
    outbox = Outbox(
        access=context.access,
        ingest=context.ingest,
        interval_s=context.settings.outbox_interval_s,
    )
    work = {"publisher": context.publisher.run}
    if context.mirrored is None:
        # A crash may have come between an erasure and its event.
        for erasure in context.private_fields.store.unlogged():
            context.access.enqueue(erasure.event_json)
            context.private_fields.store.finish(erasure)
        # The log has the event of a token before anybody can use the token. The events of a
        # mirror's tokens wait: no log takes them unless the mirror is promoted.
        await outbox.append_waiting()
        work["outbox"] = outbox.run
    revoke_revived(context.store, context.access)
    tasks = [asyncio.create_task(_watched(context, name, run())) for name, run in work.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watched(context: ServiceContext, name: str, work: Awaitable[None]) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - a task's top; /readyz reports it
        log_failure("task_failed", error, task=name)
    context.broken.append(f"the task {name} has ended")
