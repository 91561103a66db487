"""`/v1/proofs`: inclusion and consistency, for everybody.

Leaf hashes cover a random id, so a proof tells nothing of an event that one doesn't have already.
"""

from typing import Final

from aiohttp import web

from ledger.service.context import Service
from ledger.service.http.problems import ProblemError
from ledger.service.http.responses import (
    JSON_MEDIA,
    NO_CACHE,
    TEXT_MEDIA,
    encode_answer,
    make_answer,
    prefers_json,
)
from ledger.service.http.router import Content, Route, Success, size_parameter
from ledger.service.routes.proving import (
    check_within,
    past_the_end,
    prove_consistency,
    prove_inclusion,
)
from ledger_core.api import ConsistencyAnswer, InclusionAnswer
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.prove import plan_inclusion
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tree import Node

VARY: Final = {"Vary": "Accept"}
FIXED: Final = "public, max-age=86400"
"""For sizes that the request names: such a proof never changes."""


async def read_inclusion(
    service: Service,
    request: web.BaseRequest,
    *,
    index: int,
    size: int | None = None,
    from_size: int | None = None,
) -> web.Response:
    """That a leaf is in the tree of a size, the published one when none is named."""
    as_json = prefers_json(request.headers.get("Accept"))
    if from_size is not None and not as_json:
        raise ProblemError("bad-parameter", f"needs Accept: {JSON_MEDIA}", field="from_size")
    bound = _bound(service, "size", size)
    if index >= bound:
        raise past_the_end("index", index, tree_size=bound)
    check_within("from_size", from_size or 0, tree_size=bound)
    tree_size, head = await _tree(service, size, at_least=max(index + 1, from_size or 0))
    cache = NO_CACHE if size is None else FIXED
    if not as_json:
        if head is None:
            raise ProblemError(
                "no-checkpoint", f"no checkpoint of size {tree_size} was published", field="size"
            )
        text = prove_inclusion(service.store, leaf_index=index, head=head)
        return make_answer(text.encode(), media=TEXT_MEDIA, cache=cache, headers=VARY)
    (leaf_hash,) = service.store.node_hashes((Node(0, index),))
    plan = plan_inclusion(leaf_index=index, tree_size=tree_size)
    answer = InclusionAnswer(
        index=index,
        tree_size=tree_size,
        leaf_hash=format_base64(leaf_hash),
        hashes=tuple(map(format_base64, service.store.prove(plan))),
        checkpoint=_note(head),
    )
    if from_size is not None:
        answer.consistency = prove_consistency(
            service.store, old_size=from_size, new_size=tree_size
        )
    return encode_answer(answer, cache=cache, headers=VARY)


async def read_consistency(
    service: Service, request: web.BaseRequest, *, from_: int, to: int | None = None
) -> web.Response:
    """That the tree of one size begins with that of another, or the published one does."""
    if to is not None and from_ > to:
        raise ProblemError(
            "bad-parameter", f"{from_} is larger than to, {to}", field="from", limit=to, got=from_
        )
    check_within("from", from_, tree_size=_bound(service, "to", to))
    new_size, head = await _tree(service, to, at_least=from_)
    proof = prove_consistency(service.store, old_size=from_, new_size=new_size)
    cache = NO_CACHE if to is None else FIXED
    if not prefers_json(request.headers.get("Accept")):
        text = "".join(f"{each}\n" for each in proof.hashes)
        return make_answer(text.encode(), media=TEXT_MEDIA, cache=cache, headers=VARY)
    answer = ConsistencyAnswer(
        from_=proof.from_, to=proof.to, hashes=proof.hashes, checkpoint=_note(head)
    )
    return encode_answer(answer, cache=cache, headers=VARY)


def _bound(service: Service, name: str, size: int | None) -> int:
    """The size of the tree that is asked about, at most; the durable one when none is named."""
    if size is None:
        return service.tree_size
    check_within(name, size, tree_size=service.tree_size)
    return size


async def _tree(
    service: Service, size: int | None, *, at_least: int
) -> tuple[int, SignedCheckpoint | None]:
    """The size to prove for, and the head that was published with it, if one was."""
    published = service.publisher.published
    if size is None:
        published = await service.published_covering(at_least)
    elif published is None or published.head.tree_size != size:
        return size, service.store.published(size)
    return published.head.tree_size, published


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
                help="The proof: a tlog-proof, or its parts as JSON.",
                contents=(
                    Content(media=TEXT_MEDIA, type={"type": "string"}),
                    Content(media=JSON_MEDIA, type=InclusionAnswer),
                ),
            ),
        ),
        problems=(
            "bad-parameter",
            "past-the-end",
            "no-checkpoint",
            "not-yet-published",
            "signing-stopped",
        ),
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
                help="The proof: one base64 hash a line, or JSON.",
                contents=(
                    Content(media=TEXT_MEDIA, type={"type": "string"}),
                    Content(media=JSON_MEDIA, type=ConsistencyAnswer),
                ),
            ),
        ),
        problems=("bad-parameter", "past-the-end", "not-yet-published", "signing-stopped"),
    ),
)
