"""The address that a request came from, behind proxies.

Each proxy adds the address of its own client on the right:

    X-Forwarded-For: 203.0.113.9, 10.0.0.7
    Forwarded: for="[2001:db8::17]:4711";proto=https, for=10.0.0.7

A client may send any addresses itself, and they come first, on the left. So the list is read from
the right, starting with the address of the connection, and each step is trusted only while the
address that reported it is a configured proxy. The first address that is no proxy is the client's.

Only one header is read, the one that the proxies write: a proxy that writes `X-Forwarded-For`
passes on a client's `Forwarded` unchanged.

A proxy may also name no address: `unknown`, an obfuscated name (`_hidden`), a socket's path, junk.
Then the client is unknown. The next address to the right would blame the proxy, and the next one to
the left would trust the client.

Source: RFC 7239 for `Forwarded`; `X-Forwarded-For` has no specification.
"""

import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import Any, Final

FORWARDED: Final = "forwarded"
X_FORWARDED_FOR: Final = "x-forwarded-for"

UNIX: Final = "unix"
"""Stands for a network: connections through a Unix socket, which have no address."""

HOPS_MAX: Final = 32
HEADER_CHARS_MAX: Final = 8_192
NODE_CHARS_MAX: Final = 256
COMMAS_MAX: Final = 16
"""In the quoted texts of one element of `Forwarded`."""

GUNICORN_DROPS: Final = 22
"""The first version of gunicorn that drops header names with an underscore."""

_DROPPING_SERVERS: Final = ("Apache", "nginx/", "waitress", "Werkzeug/", "gevent/")
_DROPPING_KEYS: Final = frozenset(
    {
        "eventlet.posthooks",
        "mod_wsgi.version",
        "waitress.client_disconnected",
        "werkzeug.debug.preserve_context",  # Of Flask's test client.
        "werkzeug.socket",
    }
)
"""What servers that drop such names call themselves, and what they put into an environment."""

PORT_MAX: Final = 65_535
PORT_DIGITS: Final = 5

_NODE = re.compile(
    r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<v4>[0-9.]+))"
    # RFC 7239 lets a proxy hide the port alone.
    r"(?::(?:(?P<port>[0-9]{1,5})|_[A-Za-z0-9._-]+))?",
    re.ASCII,
)
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Nothing is given back (`*+`): blanks between two semicolons would be divided in every way.
_PAIR: Final = rf'{_WORD}+=(?:{_WORD}+|"(?:[^"\\]|\\.)*+")'
_is_element = re.compile(rf"\s*+(?:{_PAIR})?+(?:\s*+;\s*+(?:{_PAIR})?+)*+\s*+").fullmatch
_pairs = re.compile(rf'({_WORD})=(?:({_WORD})|"((?:[^"\\]|\\.)*)")').findall
_escapes = re.compile(r"\\(.)")
_log = logging.getLogger("ledger_client.integrations")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a connection: an address in canonical text, and a port, if they are known."""

    ip: str | None
    port: int | None = None


NOWHERE: Final = Endpoint(None)


@dataclass(frozen=True, slots=True)
class Client:
    """The origin of a request. If a proxy named no address, `hidden_by` is that proxy."""

    endpoint: Endpoint
    hidden_by: str | None = None


class Proxies:
    """The trusted proxies, and the header that they write."""

    def __init__(self, networks: Iterable[str] = (), *, header: str = X_FORWARDED_FOR) -> None:
        """`networks` are addresses, networks (`10.0.0.0/8`) and `unix`.

        Any header that holds addresses like `X-Forwarded-For` will do, one alone too (`X-Real-IP`).

        Raises: TypeError for a text in the place of a list; ValueError for what is no network, and
        for one that holds every address: whoever connects would be believed.
        """
        if isinstance(networks, str):
            raise TypeError(f"want a list of networks, got the text {networks!r}")
        self.header: Final = header.lower()
        texts = tuple(networks)
        self._has_unix: Final = UNIX in texts
        self._networks: Final = tuple(_network(text) for text in texts if text != UNIX)

    def client(self, peer: Endpoint, values: Sequence[str]) -> Client:
        """The client of a request that came over `peer` with so many `values` of the header.

        Precondition: the values are in the order in which they came.
        """
        here = peer
        if not self.is_proxy(peer):
            return Client(peer)
        for text in islice(self._nodes(values), HOPS_MAX):
            node = None if text is None else parse_node(text)
            if node is None:
                return Client(NOWHERE, hidden_by=here.ip or UNIX)
            if not self.is_proxy(node):
                return Client(node)
            here = node
        return Client(here)

    def is_proxy(self, peer: Endpoint) -> bool:
        """Whether this peer is a trusted proxy."""
        if peer.ip is None:
            return self._has_unix
        address = _address(peer.ip)
        return any(address in network for network in self._networks)

    def _nodes(self, values: Sequence[str]) -> Iterator[str | None]:
        """The nodes that the header names, from the right; None for what can't be read."""
        text = ",".join(values)
        if len(text) > HEADER_CHARS_MAX:
            # The sign makes what was cut in two unreadable: half of an address may be another one.
            text = "!" + text[-HEADER_CHARS_MAX:]
        if not text.strip():
            return iter(())
        return _forwarded(text) if self.header == FORWARDED else reversed(text.split(","))


def parse_node(text: str) -> Endpoint | None:
    """Read an address with or without port, as proxies write them; None when it is none.

    `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`, in quotes too.
    A zone (`%eth0`) is left out: it means something on the proxy's machine alone. So is port 0.
    """
    text = text.strip()
    if len(text) > NODE_CHARS_MAX:
        return None
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    match = _NODE.fullmatch(text)
    if match is None:
        return None if ":" not in text else parse_peer(text)
    endpoint = parse_peer(match["v6"] or match["v4"], int(match["port"] or 0))
    is_v6 = match["v6"] is not None
    if endpoint is None or is_v6 != (":" in (match["v6"] or "")):
        return None
    return endpoint if int(match["port"] or 0) <= PORT_MAX else None


def parse_peer(host: str, port: int | str | None = None) -> Endpoint | None:
    """The other end of a connection, as the server reports it; None if `host` is no address.

    The port is a text in WSGI, and in ASGI under granian.
    """
    try:
        address = _address(host)
    except ValueError:
        return None
    text = str(port)
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= PORT_DIGITS else 0
    return Endpoint(str(address), number if 0 < number <= PORT_MAX else None)


# Of a busy server, most requests come over the same few proxies.
@lru_cache(maxsize=4_096)
def _address(text: str) -> IPv4Address | IPv6Address:
    """Raises: ValueError."""
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def _network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(text)
    if network.prefixlen == 0:
        raise ValueError(f"{text} holds every address: whoever connects would be a proxy")
    return network


def environ_header(
    environ: Mapping[str, Any], name: str, *, drops_underscores: bool = False
) -> list[str]:
    """The values of a header in a WSGI environment, by its name in lower case.

    The environment has one key for `X-Forwarded-For`, which the proxy writes, and for
    `X_Forwarded_For`, which many proxies pass on as any client sends it. Servers that don't drop
    such names join the two values, or keep one of them. So behind those, and behind a server that
    isn't known, no header of a proxy is read that has a hyphen in its name; `drops_underscores`
    says that the proxy passes no such name on.
    """
    scope = environ.get("asgi.scope")
    if scope is not None:  # A bridge from ASGI, of which the bare names are left.
        return scope_header(scope, name)
    value = environ.get(f"HTTP_{name.upper().replace('-', '_')}")
    if value is None:
        return []
    if drops_underscores or "-" not in name or name == "user-agent" or _drops_names(environ):
        return [value]
    _warn_of_server()
    return []


def scope_header(scope: Mapping[str, Any], name: str) -> list[str]:
    """The values of a header in an ASGI scope, by its name in lower case."""
    wanted = name.encode()
    return [value.decode("latin-1") for each, value in scope["headers"] if each.lower() == wanted]


def _drops_names(environ: Mapping[str, Any]) -> bool:
    """Whether the server of a WSGI environment is known to drop names with an underscore."""
    body = environ.get("wsgi.input")
    server = str(environ.get("SERVER_SOFTWARE", ""))
    if server.startswith("WSGIServer/"):
        # `wsgiref` does not. Django's own server is of the same name, and wraps the body.
        return not isinstance(body, io.BufferedIOBase)
    if server.startswith("gunicorn/"):
        major = server.removeprefix("gunicorn/").partition(".")[0]
        return major.isdecimal() and int(major) >= GUNICORN_DROPS
    if "uwsgi.version" in environ:
        # By its own protocol, it has the names that nginx and Apache left, which drop such ones.
        return "REQUEST_SCHEME" in environ and "UWSGI_ROUTER" not in environ
    return (
        server.startswith(_DROPPING_SERVERS)
        or not _DROPPING_KEYS.isdisjoint(environ)
        # No server made it, but a test.
        or body is None
        or type(body).__module__ == "django.test.client"
    )


@lru_cache(maxsize=1)
def _warn_of_server() -> None:
    _log.warning(
        "proxy_header_not_read: this server may take X_Forwarded_For of any client for the"
        " proxy's X-Forwarded-For; see the setting drops_underscores"
    )


def _forwarded(text: str) -> Iterator[str | None]:
    """The `for` of each element, from the right; None, and the end, for a malformed element.

    Elements are told apart from the right as well. From the left, a stranger's lone quote would
    swallow what the proxy has added.
    """
    end = len(text)
    while end >= 0:
        start = end
        for _ in range(COMMAS_MAX):
            start = text.rfind(",", 0, start)
            element = text[start + 1 : end]
            if start < 0 or _is_element(element):
                break
        if not _is_element(element):
            yield None
            return
        yield _for(element)
        end = start


def _for(element: str) -> str | None:
    nodes = [
        token or _escapes.sub(r"\1", quoted)
        for name, token, quoted in _pairs(element)
        if name.lower() == "for"
    ]
    return nodes[0] if len(nodes) == 1 else None
