"""Answers with a body: media types, Cache-Control, and the negotiation of compression and JSON."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from ledger.runtime.whole_answer import WholeAnswer

JSON_MEDIA: Final = "application/json"
NDJSON_MEDIA: Final = "application/x-ndjson"
PROBLEM_MEDIA: Final = "application/problem+json"
TEXT_MEDIA: Final = "text/plain"
BYTES_MEDIA: Final = "application/octet-stream"

NO_STORE: Final = "no-store"
NO_CACHE: Final = "no-cache"
NO_CACHE_PRIVATE: Final = "private, no-cache"
"""Of answers that hold events."""
IMMUTABLE: Final = "public, max-age=31536000, immutable"
IMMUTABLE_PRIVATE: Final = "private, max-age=31536000, immutable"
A_MINUTE: Final = "public, max-age=60"
A_MINUTE_PRIVATE: Final = "private, max-age=60"

PUBLIC: Final = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
"""Headers of what pages of any site may read: checkpoints, and tiles that need no token."""

STRICT_TRANSPORT: Final = ("Strict-Transport-Security", "max-age=31536000")
"""On answers over TLS: a browser asks this host over TLS alone from now on. RFC 6797."""

_STRICT: Final = (
    ("X-Content-Type-Options", "nosniff"),
    # No answer is a page; a browser that shows one runs nothing of it, and in no frame.
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Server", "witnessed-ledger"),
)
_CONTENT_TYPES: Final = {TEXT_MEDIA: "text/plain; charset=utf-8"}
_encode = msgspec.json.Encoder().encode


def make_answer(
    body: bytes,
    *,
    media: str,
    status: int = 200,
    cache: str = NO_STORE,
    headers: Mapping[str, str] | None = None,
) -> WholeAnswer:
    """An answer with this body."""
    content_type = ("Content-Type", _CONTENT_TYPES.get(media, media))
    fields = CIMultiDict((content_type, ("Cache-Control", cache), *_STRICT))
    kind: tuple[int, str, str] | None = (status, media, cache)
    if headers:
        fields.update(headers)
        kind = None
    return WholeAnswer(body, status=status, headers=fields, kind=kind)


def note_transport(request: web.BaseRequest, answer: web.StreamResponse) -> None:
    """Add what holds for answers over TLS. Precondition: the answer is not begun."""
    if request.secure:
        name, value = STRICT_TRANSPORT
        answer.headers[name] = value


def encode_answer(
    value: Any,
    *,
    media: str = JSON_MEDIA,
    status: int = 200,
    cache: str = NO_STORE,
    headers: Mapping[str, str] | None = None,
) -> WholeAnswer:
    """An answer with this value as JSON; bytes in it become base64."""
    return make_answer(_encode(value), media=media, status=status, cache=cache, headers=headers)


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether an answer may be compressed with gzip. Source: RFC 9110 §12.5.3."""
    for part in (accept_encoding or "").split(","):
        coding, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if coding == "gzip":
            return _quality(parameters) > 0
    return False


class _Preference(NamedTuple):
    quality: float
    specificity: int
    order: int


def prefers_json(accept: str | None) -> bool:
    """Whether JSON is wanted rather than plain text, the default.

    The larger quality wins, then the more exact range, then the one that was named first.
    Source: RFC 9110 §12.5.1.
    """
    if not accept:
        return False
    json = _preference(accept, JSON_MEDIA)
    return json.quality > 0 and json > _preference(accept, TEXT_MEDIA)


def _preference(accept: str, media: str) -> _Preference:
    ranges = {media: 2, f"{media.partition('/')[0]}/*": 1, "*/*": 0}
    found: list[_Preference] = []
    for order, part in enumerate(accept.split(",")):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media_range in ranges:
            found.append(_Preference(_quality(parameters), ranges[media_range], -order))
    # The most exact range that fits decides, whatever quality it gives.
    return max(found, key=lambda each: each.specificity, default=_Preference(0.0, 0, 0))


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
