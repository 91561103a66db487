"""`/checkpoint` and `/tile/…`: the log as any tlog client reads it.

Tiles are served up to the published size. Hash tiles are for everybody; bundles hold events, so
they need the scope `read`, and a token without a tenant, for a bundle mixes tenants.

Source: c2sp.org/tlog-tiles.
"""

from typing import Final

from aiohttp import web

from ledger.service.auth import authenticate
from ledger.service.context import Service
from ledger.service.http.problems import ProblemError
from ledger.service.http.responses import (
    A_MINUTE,
    A_MINUTE_PRIVATE,
    BYTES_MEDIA,
    IMMUTABLE,
    IMMUTABLE_PRIVATE,
    NO_CACHE,
    TEXT_MEDIA,
    accepts_gzip,
    make_answer,
)
from ledger.service.http.router import Content, Route, Success, path_parameter
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.tile import TILE_WIDTH, TileRef, parse_tile_path, tile_width


async def read_checkpoint(service: Service, _request: web.BaseRequest) -> web.Response:
    """The published head."""
    published = await service.published_covering(0)
    return make_answer(published.note.encode(), media=TEXT_MEDIA, cache=NO_CACHE)


async def read_tile(
    service: Service,
    _request: web.BaseRequest,
    *,
    level: str,
    index: str,
) -> web.Response:
    """A tile of hashes, full or partial."""
    ref = _find(service, f"tile/{level}/{index}")
    tile = service.store.tile(level=int(level), index=ref.index, width=ref.width)
    cache = IMMUTABLE if ref.width == TILE_WIDTH else A_MINUTE
    return _answer(tile, cache)


async def read_bundle(service: Service, request: web.BaseRequest, *, index: str) -> web.Response:
    """The entries under a tile of level 0."""
    is_public = service.settings.public_entries
    if not is_public:
        token = authenticate(service.access, request.headers.get("Authorization"), "read")
        if token.tenant is not None:
            raise ProblemError("wrong-tenant", "a bundle holds the events of every tenant")
    ref = _find(service, f"tile/entries/{index}")
    bundle = service.store.bundle(index=ref.index, width=ref.width)
    if ref.width == TILE_WIDTH:
        cache = IMMUTABLE if is_public else IMMUTABLE_PRIVATE
    else:
        cache = A_MINUTE if is_public else A_MINUTE_PRIVATE
    answer = _answer(bundle, cache)
    answer.headers["Vary"] = "Accept-Encoding"
    if accepts_gzip(request.headers.get("Accept-Encoding")):
        answer.enable_compression(web.ContentCoding.gzip)
    return answer


def _find(service: Service, path: str) -> TileRef:
    """The tile of a path, when the published tree has it. Raises: ProblemError."""
    try:
        ref = parse_tile_path(path)
    except MalformedError as error:
        raise ProblemError("no-tile", str(error)) from None
    published = service.publisher.published
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


def _answer(body: bytes | None, cache: str) -> web.Response:
    if body is None:
        raise MalformedError("a tile of the published tree is not in the store")
    return make_answer(body, media=BYTES_MEDIA, cache=cache)


_INDEX_PATTERN: Final = r"(?:x[0-9]{3}/)*[0-9]{3}(?:\.p/[0-9]{1,3})?"
_INDEX: Final = path_parameter(
    "index",
    "Its index in groups of three digits, all but the last behind an x, and `.p/` with its width "
    "when it is partial: `x001/x234/067.p/12`. The slashes are part of the path.",
    pattern=".+",
    schema={"type": "string", "pattern": f"^{_INDEX_PATTERN}$"},
)
_BYTES: Final = (Content(media=BYTES_MEDIA, type={"type": "string", "format": "binary"}),)

ROUTES: Final = (
    Route(
        path="/checkpoint",
        handler=read_checkpoint,
        summary="The published head, a signed note",
        successes=(
            Success(
                help="The note.", contents=(Content(media=TEXT_MEDIA, type={"type": "string"}),)
            ),
        ),
        problems=("not-yet-published", "signing-stopped"),
    ),
    Route(
        path="/tile/entries/{index}",
        handler=read_bundle,
        summary="A bundle of entries",
        scope="read",
        parameters=(_INDEX,),
        successes=(Success(help="The entries, each behind its length.", contents=_BYTES),),
        problems=("no-tile", "wrong-tenant"),
    ),
    Route(
        path="/tile/{level}/{index}",
        handler=read_tile,
        summary="A tile of hashes",
        parameters=(
            path_parameter(
                "level",
                "The level of the tile, 0 for leaf hashes.",
                schema={"type": "string", "pattern": "^(0|[1-9][0-9]?)$"},
            ),
            _INDEX,
        ),
        successes=(Success(help="The hashes.", contents=_BYTES),),
        problems=("no-tile",),
    ),
)
