r"""The PROXY protocol, by which a balancer names the client of a connection that it passes on.

    PROXY TCP4 192.0.2.9 203.0.113.1 50123 6514\r\n    version 1: one line
    \r\n\r\n\0\r\nQUIT\n …                              version 2: 16 bytes, then addresses

The header is the first thing on a connection, also before TLS. Not a byte behind it is read. It
proves nothing: only connections from addresses that the operator named may begin with one.

Source: https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
"""

import re
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from ledger_core.event.canonical import canonical_ip
from ledger_core.event.model import EventError
from ledger_core.tlog.errors import MalformedError

LINE_BYTES_MAX: Final = 107
"""Of a header of version 1, with its line end (§2.1)."""
ADDRESSES_BYTES_MAX: Final = 4096
"""Of the addresses and extensions of version 2."""

Receive = Callable[[int], Awaitable[bytes]]
"""Receives at most so many bytes; none at the end of the connection."""

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD_BYTES: Final = 16
_IPV4_BYTES: Final = 12
_IPV6_BYTES: Final = 36
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_match_line = re.compile(
    rb"PROXY TCP[46] ([0-9A-Fa-f.:]{2,39}) [0-9A-Fa-f.:]{2,39} ([0-9]{1,5}) [0-9]{1,5}"
).fullmatch


class Client(NamedTuple):
    """The client of a connection, as a balancer names it."""

    ip: str
    port: int


def plain_ip(text: str) -> str:
    """An address in its one spelling, "" for none.

    Without its zone: that of a link-local address means nothing on another host.
    """
    try:
        return canonical_ip(text.partition("%")[0])
    except EventError:
        return ""


async def read_header(receive: Receive) -> Client | None:
    """Read a header; None for a connection of the balancer itself, such as its health checks.

    Raises: MalformedError for anything else than a header; EOFError for nothing at all.
    """
    first = await receive(1)
    if not first:
        raise EOFError("the connection ended before a PROXY header")
    if first == b"P":
        return await _read_line(receive)
    if first == _SIGNATURE[:1]:
        return await _read_binary(receive)
    raise MalformedError("the connection does not begin with a PROXY header")


async def _read_line(receive: Receive) -> Client | None:
    line = bytearray(b"P")
    # One byte at a time: what stands behind the line may be for TLS.
    while not line.endswith(b"\r\n"):
        if len(line) == LINE_BYTES_MAX:
            raise MalformedError(f"a PROXY line has more than {LINE_BYTES_MAX} bytes")
        line += await _exactly(receive, 1)
    if line.startswith(b"PROXY UNKNOWN"):
        return None
    match = _match_line(line[:-2])
    if match is None:
        raise MalformedError("the PROXY line names no address")
    try:
        return Client(str(ip_address(match[1].decode())), _port(int(match[2])))
    except ValueError:
        raise MalformedError("the PROXY line names no address") from None


async def _read_binary(receive: Receive) -> Client | None:
    head = _SIGNATURE[:1] + await _exactly(receive, _HEAD_BYTES - 1)
    if not head.startswith(_SIGNATURE):
        raise MalformedError("the connection does not begin with a PROXY header")
    command, family = head[12], head[13]
    length = int.from_bytes(head[14:16], "big")
    if command not in (_LOCAL, _PROXY) or length > ADDRESSES_BYTES_MAX:
        raise MalformedError(f"a PROXY header of command {command:#x} and {length} bytes")
    addresses = await _exactly(receive, length)
    if command == _LOCAL:
        return None
    if family == _TCP4 and length >= _IPV4_BYTES:
        return Client(str(IPv4Address(addresses[:4])), int.from_bytes(addresses[8:10], "big"))
    if family == _TCP6 and length >= _IPV6_BYTES:
        return Client(str(IPv6Address(addresses[:16])), int.from_bytes(addresses[32:34], "big"))
    return None


async def _exactly(receive: Receive, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        part = await receive(count - len(received))
        if not part:
            raise MalformedError("the connection ended inside the PROXY header")
        received += part
    return bytes(received)


def _port(port: int) -> int:
    if port > 0xFFFF:  # noqa: PLR2004 - 16 bits
        raise ValueError(port)
    return port
