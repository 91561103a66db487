"""`GET /v1/checkpoints`: the published checkpoints that the log keeps, which need no token.

The smallest one above an index shows how early the entry there existed.
"""

from typing import Final

from aiohttp import web

from ledger.service.auth import caller_name, is_stranger
from ledger.service.context import ServiceContext
from ledger.service.http.body_reader import BODY_PROBLEMS
from ledger.service.http.parameters import flag_parameter, number_parameter, size_parameter
from ledger.service.http.problems import ProblemError
from ledger.service.http.responses import (
    JSON_MEDIA,
    NO_CACHE,
    PUBLIC,
    TEXT_MEDIA,
    encode_answer,
    make_answer,
)
from ledger.service.http.router import TEXT_SCHEMA, Route, Success
from ledger.service.queries.heads import find_kept_heads, read_shown_head
from ledger.service.routes.proofs import HEAD_PROBLEMS
from ledger_core.api import KeptCheckpoints
from ledger_core.status import CheckpointShown
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.note import NOTE_BYTES_MAX

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000
STOP_POLL_S: Final = 0.5
"""The longest wait before a request that waits notices that the service stops."""


async def read_checkpoints(
    context: ServiceContext,
    request: web.BaseRequest,
    *,
    from_: int = 0,
    limit: int = LIMIT_DEFAULT,
    wait: bool = False,
) -> web.Response:
    """Kept checkpoints, the smallest first, each with a proof that the log only grew since."""
    if wait and from_ <= context.tree_size + 1:
        await _wait_for_size(context, from_, wait_s=context.settings.published_wait_s)
    published = await context.published_covering(0)
    # A thousand proofs take a tenth of a second, for which the event loop has no time.
    client = context.query_pool.caller_client(request)
    answer = await client.run(find_kept_heads, published, start=from_, limit=limit)
    return make_answer(answer, media=JSON_MEDIA, cache=NO_CACHE, headers=PUBLIC)


async def _wait_for_size(context: ServiceContext, tree_size: int, *, wait_s: float) -> None:
    """Wait until a head of this size is published, for so long at most, or until a stop."""
    waited_s = 0.0
    while waited_s < wait_s and not context.stopping.is_set():
        step_s = min(STOP_POLL_S, wait_s - waited_s)
        if await context.publisher.wait_for(tree_size, timeout_s=step_s) is not None:
            return
        waited_s += step_s


async def show_checkpoint(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """Take a checkpoint of this log that a client, a monitor or a mirror has.

    If this log signed it and does not have its entries, the log takes no events any more until a
    person decides: an old copy of it was put back.
    """
    body = await context.read_body(
        request,
        owner=caller_name(request),
        bytes_max=NOTE_BYTES_MAX,
        is_stranger=is_stranger(request),
    )
    found = await context.query_pool.caller_client(request).run(
        read_shown_head,
        body,
        [str(log.verifier) for log in context.policy.logs],
        [str(witness.verifier) for witness in context.policy.witnesses],
    )
    if isinstance(found, str):
        raise ProblemError("checkpoint", found)
    try:
        known = await context.publisher.shown(found, by="a client")
    except (MalformedError, VerificationError) as error:
        raise ProblemError("checkpoint", str(error)) from None
    return encode_answer(CheckpointShown(known=known, tree_size=context.tree_size))


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/checkpoints",
        handler=show_checkpoint,
        summary="Show the log a checkpoint that it signed",
        bodies={TEXT_MEDIA: TEXT_SCHEMA},
        successes=(Success("Whether the log has its entries.", {JSON_MEDIA: CheckpointShown}),),
        problems=("checkpoint", *BODY_PROBLEMS),
    ),
    Route(
        path="/v1/checkpoints",
        handler=read_checkpoints,
        summary="The published checkpoints that are kept",
        parameters=(
            size_parameter("from", "The smallest tree size; 0 when left out."),
            number_parameter(
                "limit",
                f"The most checkpoints; {LIMIT_DEFAULT} when left out.",
                most=LIMIT_MAX,
                least=1,
            ),
            flag_parameter(
                "wait",
                "1 waits until a checkpoint of the size `from` is published, for "
                "`published_wait_s` at most, and only if the log may grow to it next.",
            ),
        ),
        successes=(Success("The checkpoints, the smallest first.", {JSON_MEDIA: KeptCheckpoints}),),
        problems=("too-busy", *HEAD_PROBLEMS),
    ),
)
