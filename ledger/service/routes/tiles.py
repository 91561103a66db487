"""`/checkpoint` and `/tile/…`: the log in the form that any tlog client reads.

Tiles are served up to the published size. Hash tiles need no token. Bundles hold the events of all
tenants, so they need the scope `read` and a token without a tenant.

Source: c2sp.org/tlog-tiles.
"""

from typing import Final

from aiohttp import web

from ledger.service.auth import authenticate
from ledger.service.context import ServiceContext
from ledger.service.http.parameters import Parameter
from ledger.service.http.problems import ProblemError
from ledger.service.http.responses import (
    A_MINUTE,
    A_MINUTE_PRIVATE,
    BYTES_MEDIA,
    IMMUTABLE,
    IMMUTABLE_PRIVATE,
    NO_CACHE,
    PUBLIC,
    TEXT_MEDIA,
    accepts_gzip,
    make_answer,
)
from ledger.service.http.router import BYTES_SCHEMA, TEXT_SCHEMA, Route, Success, note_read
from ledger.service.http.streaming_response import answer_of
from ledger.service.routes.proofs import HEAD_PROBLEMS
from ledger.service.stored_events import bundle_of
from ledger.store.stored_log import reading
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.tile import TILE_WIDTH, TileRef, parse_tile_path, tile_width


async def read_checkpoint(context: ServiceContext, _request: web.BaseRequest) -> web.Response:
    """The published head."""
    published = await context.published_covering(0)
    return make_answer(published.note.encode(), media=TEXT_MEDIA, cache=NO_CACHE, headers=PUBLIC)


async def read_tile(
    context: ServiceContext,
    _request: web.BaseRequest,
    *,
    level: str,
    index: str,
) -> web.Response:
    """A tile of hashes, full or partial."""
    ref = _find(context, f"tile/{level}/{index}")
    number, store = int(level), context.store
    tile = await reading(lambda: store.tile(level=number, index=ref.index, width=ref.width))
    if tile is None:
        raise MalformedError("a tile of the published tree is not in the store")
    cache = IMMUTABLE if ref.width == TILE_WIDTH else A_MINUTE
    return make_answer(tile, media=BYTES_MEDIA, cache=cache, headers=PUBLIC)


async def show_bundle(
    context: ServiceContext, request: web.BaseRequest, *, index: str
) -> web.Response:
    """The entries under a tile of level 0."""
    is_public = context.settings.public_entries
    if not is_public:
        token = authenticate(context.access, request, "export")
        if token.tenant is not None:
            raise ProblemError("wrong-tenant", "a bundle holds the events of every tenant")
    ref = _find(context, f"tile/entries/{index}")
    may_gzip = accepts_gzip(request.headers.get("Accept-Encoding"))
    bundle, is_gzip = await bundle_of(context, request, ref, accepts_gzip=may_gzip)
    note_read(request, ref.width)
    if ref.width == TILE_WIDTH:
        cache = IMMUTABLE if is_public else IMMUTABLE_PRIVATE
    else:
        cache = A_MINUTE if is_public else A_MINUTE_PRIVATE
    headers = {"Vary": "Accept-Encoding", **(PUBLIC if is_public else {})}
    if is_gzip:
        headers["Content-Encoding"] = "gzip"
    return answer_of(bundle, media=BYTES_MEDIA, cache=cache, headers=headers)


def _find(context: ServiceContext, path: str) -> TileRef:
    """The tile of a path, if the published tree has it. Raises: ProblemError."""
    try:
        ref = parse_tile_path(path)
    except MalformedError as error:
        raise ProblemError("no-tile", str(error)) from None
    published = context.publisher.published
    tree_size = 0 if published is None else published.head.tree_size
    width = tile_width(level=ref.level or 0, index=ref.index, tree_size=tree_size)
    if ref.width > width:
        raise ProblemError(
            "no-tile",
            f"the published tree of size {tree_size} has {width} of its {ref.width}",
            limit=width,
            got=ref.width,
        )
    return ref


_INDEX_PATTERN: Final = r"(?:x[0-9]{3}/)*[0-9]{3}(?:\.p/[0-9]{1,3})?"
_INDEX: Final = Parameter(
    "index",
    "Its index in groups of three digits, all but the last behind an x, and `.p/` with its width "
    "when it is partial: `x001/x234/067.p/12`. The slashes are part of the path.",
    place="path",
    pattern=".+",
    schema={"type": "string", "pattern": f"^{_INDEX_PATTERN}$"},
)

ROUTES: Final = (
    Route(
        path="/checkpoint",
        handler=read_checkpoint,
        summary="The published head, a signed note",
        successes=(Success("The note.", {TEXT_MEDIA: TEXT_SCHEMA}),),
        problems=HEAD_PROBLEMS,
    ),
    Route(
        path="/tile/entries/{index}",
        handler=show_bundle,
        summary="A bundle of entries",
        scope="export",
        parameters=(_INDEX,),
        successes=(Success("The entries, each behind its length.", {BYTES_MEDIA: BYTES_SCHEMA}),),
        problems=("no-tile", "pruned", "wrong-tenant", "too-busy"),
    ),
    Route(
        path="/tile/{level}/{index}",
        handler=read_tile,
        summary="A tile of hashes",
        parameters=(
            Parameter(
                "level",
                "The level of the tile, 0 for leaf hashes.",
                place="path",
                schema={"type": "string", "pattern": "^(0|[1-9][0-9]?)$"},
            ),
            _INDEX,
        ),
        successes=(Success("The hashes.", {BYTES_MEDIA: BYTES_SCHEMA}),),
        problems=("no-tile",),
    ),
)
