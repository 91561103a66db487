"""`/v1/proofs`: inclusion and consistency proofs, which need no token, and multi-proofs.

A leaf hash covers a random id, so a proof reveals nothing about an event to a reader without it.
Other routes add proofs to their answers with `queries.store_proofs`.
"""

from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from ledger.service.auth import authenticate
from ledger.service.context import ServiceContext
from ledger.service.http.body_reader import BODY_PROBLEMS
from ledger.service.http.parameters import size_parameter
from ledger.service.http.problems import ProblemError
from ledger.service.http.responses import (
    JSON_MEDIA,
    NO_CACHE,
    TEXT_MEDIA,
    encode_answer,
    make_answer,
    prefers_json,
)
from ledger.service.http.router import TEXT_SCHEMA, Route, Success
from ledger.service.queries.store_proofs import (
    inclusion_hashes,
    prove_consistency,
    prove_inclusion,
    prove_multi,
)
from ledger.store.stored_log import reading
from ledger_core.api import (
    MULTI_LEAVES_MAX,
    AskMulti,
    ConsistencyAnswer,
    InclusionAnswer,
)
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tree import Node, TreeHead

HEAD_PROBLEMS: Final = ("not-yet-published", "signing-stopped")
PROOF_PROBLEMS: Final = ("past-the-end", *HEAD_PROBLEMS)
"""What `published_covering` and `check_within` may refuse a request with."""

MULTI_BYTES_MAX: Final = 1 << 17

VARY: Final = {"Vary": "Accept"}
FIXED: Final = "public, max-age=86400"
"""The Cache-Control for sizes that the request names: such a proof never changes."""


async def read_inclusion(
    context: ServiceContext,
    request: web.BaseRequest,
    *,
    index: int,
    size: int | None = None,
    from_size: int | None = None,
) -> web.Response:
    """Prove that a leaf is in the tree of a size, by default the published one."""
    as_json = prefers_json(request.headers.get("Accept"))
    if from_size is not None and not as_json:
        raise ProblemError("bad-parameter", f"needs Accept: {JSON_MEDIA}", field="from_size")
    bound = _bound(context, "size", size)
    if index >= bound:
        raise past_the_end("index", index, tree_size=bound)
    check_within("from_size", from_size or 0, tree_size=bound)
    tree, head = await _tree(context, size, at_least=max(index + 1, from_size or 0))
    await context.begin_quick_work(request)
    cache = NO_CACHE if size is None else FIXED
    if not as_json:
        if head is None:
            raise ProblemError(
                "no-checkpoint", f"no checkpoint of size {size} was published", field="size"
            )
        signed, store = head, context.store
        text = await reading(lambda: prove_inclusion(store, leaf_index=index, head=signed))
        return make_answer(text.encode(), media=TEXT_MEDIA, cache=cache, headers=VARY)

    def answer_json() -> InclusionAnswer:
        (leaf_hash,) = context.store.node_hashes((Node(0, index),))
        answer = InclusionAnswer(
            index=index,
            tree_size=tree.tree_size,
            leaf_hash=format_base64(leaf_hash),
            hashes=tuple(map(format_base64, inclusion_hashes(context.store, index, tree))),
            checkpoint=_note(head),
        )
        if from_size is not None:
            answer.consistency = prove_consistency(context.store, old_size=from_size, head=tree)
        return answer

    answer = await reading(answer_json)
    return encode_answer(answer, cache=cache, headers=VARY)


async def read_consistency(
    context: ServiceContext, request: web.BaseRequest, *, from_: int, to: int | None = None
) -> web.Response:
    """Prove that the tree of one size begins with that of another, by default the published."""
    if to is not None and from_ > to:
        raise ProblemError(
            "bad-parameter", f"{from_} is larger than to, {to}", field="from", limit=to, got=from_
        )
    check_within("from", from_, tree_size=_bound(context, "to", to))
    tree, head = await _tree(context, to, at_least=from_)
    await context.begin_quick_work(request)
    proof = await reading(lambda: prove_consistency(context.store, old_size=from_, head=tree))
    cache = NO_CACHE if to is None else FIXED
    if not prefers_json(request.headers.get("Accept")):
        text = "".join(f"{each}\n" for each in proof.hashes)
        return make_answer(text.encode(), media=TEXT_MEDIA, cache=cache, headers=VARY)
    answer = ConsistencyAnswer(
        from_=proof.from_, to=proof.to, hashes=proof.hashes, checkpoint=_note(head)
    )
    return encode_answer(answer, cache=cache, headers=VARY)


async def read_multi(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """Prove that some leaves are in the tree of a size, with the hashes that they share once."""
    token = authenticate(context.access, request, "query", "export")
    body = await context.read_body(request, owner=token.name, bytes_max=MULTI_BYTES_MAX)
    try:
        ask = msgspec.json.decode(body, type=AskMulti)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProblemError(
            "not-json", f"want tree_size and 1 to {MULTI_LEAVES_MAX} ascending indices"
        ) from None
    check_within("tree_size", ask.tree_size, tree_size=context.tree_size)
    if ask.indices[-1] >= ask.tree_size:
        raise past_the_end("indices", ask.indices[-1], tree_size=ask.tree_size)
    client = context.query_pool.client(token.name, request)
    proof = await client.run(prove_multi, ask)
    return make_answer(proof, media=TEXT_MEDIA, cache=NO_CACHE)


def check_from_size(context: ServiceContext, from_size: int | None, *, has_proof: bool) -> None:
    """Refuse the parameter `from_size` without a proof, or past the end. Raises: ProblemError."""
    if from_size is not None:
        if not has_proof:
            raise ProblemError("bad-parameter", "needs proof=1", field="from_size")
        check_within("from_size", from_size, tree_size=context.tree_size)


def check_within(name: str, number: int, *, tree_size: int) -> None:
    """Refuse a size that is larger than the tree. Raises: ProblemError."""
    if number > tree_size:
        raise past_the_end(name, number, tree_size=tree_size)


def past_the_end(name: str, number: int, *, tree_size: int) -> ProblemError:
    """The refusal of an index or a size past the end of the tree."""
    return ProblemError(
        "past-the-end",
        f"got {number}, the tree has size {tree_size}",
        field=name,
        limit=tree_size,
        got=number,
    )


def _bound(context: ServiceContext, name: str, size: int | None) -> int:
    """The largest size that the proof may be for: the named one, or the durable one."""
    if size is None:
        return context.tree_size
    check_within(name, size, tree_size=context.tree_size)
    return size


async def _tree(
    context: ServiceContext, size: int | None, *, at_least: int
) -> tuple[TreeHead, SignedCheckpoint | None]:
    """The tree to prove for, and the head that was published with its size, if any."""
    published = context.publisher.published
    if size is None:
        published = await context.published_covering(at_least)
    elif published is None or published.head.tree_size != size:
        published = context.store.published(size)
        if published is None:
            return await reading(partial(context.store.head_at, size)), None
    return published.head, published


def _note(head: SignedCheckpoint | None) -> str | None:
    return None if head is None else head.note


ROUTES: Final = (
    Route(
        path="/v1/proofs/inclusion",
        handler=read_inclusion,
        summary="That an event is in the tree",
        parameters=(
            size_parameter("index", "The index of the event.", required=True),
            size_parameter("size", "The size of the tree; the published one when left out."),
            size_parameter(
                "from_size", "JSON only: also prove that the tree begins with the one of this size."
            ),
        ),
        successes=(
            Success(
                "The proof: a tlog-proof, or its parts as JSON.",
                {TEXT_MEDIA: TEXT_SCHEMA, JSON_MEDIA: InclusionAnswer},
            ),
        ),
        problems=("no-checkpoint", *PROOF_PROBLEMS),
    ),
    Route(
        path="/v1/proofs/consistency",
        handler=read_consistency,
        summary="That the log only grew",
        parameters=(
            size_parameter("from", "The size of the older tree.", required=True),
            size_parameter("to", "The size of the newer tree; the published one when left out."),
        ),
        successes=(
            Success(
                "The proof: one base64 hash a line, or JSON.",
                {TEXT_MEDIA: TEXT_SCHEMA, JSON_MEDIA: ConsistencyAnswer},
            ),
        ),
        problems=PROOF_PROBLEMS,
    ),
    Route(
        method="POST",
        path="/v1/proofs/multi",
        handler=read_multi,
        summary="That many events are in the tree",
        scope="query",
        other_scope="export",
        bodies={JSON_MEDIA: AskMulti},
        successes=(Success("The proof, a multi-proof.", {TEXT_MEDIA: TEXT_SCHEMA}),),
        problems=("past-the-end", "not-json", "too-busy", *BODY_PROBLEMS),
    ),
)
