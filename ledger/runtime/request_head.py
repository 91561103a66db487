"""Refuses heads of requests that the HTTP parser lets pass.

A proxy in front of a server may read such a head in another way. Then the two disagree where a
request ends, whose it is, or for which host it is (request smuggling).

Source: RFC 9112 §3.2, §6.1; RFC 9110 §5.3, §7.2.
"""

import re
from functools import lru_cache
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11

HEAD_BYTES_MAX: Final = 32_768
"""Bytes of a target and all headers together, as proxies have them."""

SINGLE_HEADERS: Final = (
    *("Authorization", "Content-Encoding", "Content-Length", "Content-Type"),
    *("Expect", "Host", "Last-Event-ID", "Transfer-Encoding"),
)
"""Headers that decide how a request is read. One that stands twice has two meanings."""

is_host = lru_cache(maxsize=64)(
    re.compile(
        r"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"
    ).fullmatch
)
"""Whether a text names a host, with a port or without."""
_match_absolute = re.compile(r"(?i:https?)://([^/?#]*)").match


def is_head_too_large(request: web.BaseRequest) -> bool:
    """Whether target and headers have more than `HEAD_BYTES_MAX` bytes."""
    headers = sum([len(name) + len(value) for name, value in request.raw_headers])
    return len(request.raw_path) + headers > HEAD_BYTES_MAX


def head_fault(request: web.BaseRequest) -> str:
    """The fault of the head of a request; empty for none."""
    headers = request.headers
    if request.version not in (HttpVersion10, HttpVersion11):
        return "the version is neither HTTP/1.0 nor HTTP/1.1"
    if repeated := _repeated(tuple([name for name, _ in request.raw_headers])):
        return f"the header {repeated} stands twice"
    coding = headers.get("Transfer-Encoding")
    if coding is not None:
        if request.version == HttpVersion10:
            return "HTTP/1.0 has no Transfer-Encoding"
        if coding.strip().lower() != "chunked":
            return "the only Transfer-Encoding that is read is chunked"
    host = headers.get("Host")
    if host is not None and not is_host(host):
        return "the header Host names no host"
    return _target_fault(request, host)


# The clients of a server send the same few heads.
@lru_cache(maxsize=64)
def _repeated(names: tuple[bytes, ...]) -> str:
    """The header that stands twice and may not; empty for none."""
    lowered = [name.lower() for name in names]
    if len(set(lowered)) == len(lowered):
        return ""
    singles = (name for name in SINGLE_HEADERS if lowered.count(name.lower().encode()) > 1)
    return next(singles, "")


def _target_fault(request: web.BaseRequest, host: str | None) -> str:
    target = request.raw_path
    if "#" in target:
        return "a fragment is no part of a request"
    if target.startswith("/") or target == "*" or request.method == "CONNECT":
        return ""
    absolute = _match_absolute(target)
    if absolute is None or absolute[1] != host:
        return "an absolute target has the scheme http or https, and the host of the header Host"
    return ""
