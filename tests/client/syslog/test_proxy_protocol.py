"""PROXY headers of both versions, as a balancer sends them, and what is no header."""

import asyncio
import contextlib
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_client.collect.syslog.proxy_protocol import ADDRESSES_BYTES_MAX, Client, read_header
from ledger_core.tlog.errors import MalformedError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def binary(command: int, family: int, addresses: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses)) + addresses


def addresses(source: str, port: int) -> bytes:
    packed = ip_address(source).packed
    return packed + packed + struct.pack("!HH", port, 6514)


def read(data: bytes, part_bytes: int = 1000) -> tuple[Client | None, bytes]:
    """Read the header at the start of `data`; return its client and the bytes behind it."""
    left = data

    async def receive(count: int) -> bytes:
        nonlocal left
        part, left = left[: min(count, part_bytes)], left[min(count, part_bytes) :]
        return part

    return asyncio.run(read_header(receive)), left


HEADERS = [
    (b"PROXY TCP4 192.0.2.9 203.0.113.1 50123 6514\r\n", Client("192.0.2.9", 50123)),
    (b"PROXY TCP6 2001:DB8::7 2001:db8::1 50123 6514\r\n", Client("2001:db8::7", 50123)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f 2001:db8::1 1 2\r\n", None),
    (binary(0x21, 0x11, addresses("192.0.2.9", 50123)), Client("192.0.2.9", 50123)),
    (binary(0x21, 0x21, addresses("2001:db8::7", 50123)), Client("2001:db8::7", 50123)),
    # Extensions behind the addresses.
    (binary(0x21, 0x11, addresses("192.0.2.9", 1) + b"\x04\0\1x"), Client("192.0.2.9", 1)),
    (binary(0x20, 0x11, addresses("192.0.2.9", 50123)), None),
    (binary(0x20, 0, b""), None),
    (binary(0x21, 0, b""), None),
    (binary(0x21, 0x31, b"/socket".ljust(216, b"\0")), None),
]


@pytest.mark.parametrize(("header", "client"), HEADERS)
@pytest.mark.parametrize("part_bytes", [1, 5, 1000])
def test_a_header_names_the_client_and_no_byte_behind_it_is_read(
    header: bytes, client: Client | None, part_bytes: int
) -> None:
    assert read(header + b"\x16\x03\x01<13>", part_bytes) == (client, b"\x16\x03\x01<13>")


@pytest.mark.parametrize(
    "data",
    [
        b"<13>1 - - - - - - x",
        b"\x16\x03\x01",
        b"P",
        b"PROXY TCP4 192.0.2.9 203.0.113.1 50123 6514\n" + b"x" * 107,
        b"PROXY TCP4 192.0.2.999 203.0.113.1 50123 6514\r\n",
        b"PROXY TCP4 192.0.2.9 203.0.113.1 70000 6514\r\n",
        b"PROXY TCP4 192.0.2.9\r\n",
        b"\r\n\r\n<13>1 - - - - - - x",
        SIGNATURE,
        binary(0x11, 0x11, addresses("192.0.2.9", 1)),
        binary(0x22, 0x11, addresses("192.0.2.9", 1)),
        binary(0x21, 0x11, addresses("192.0.2.9", 1))[:-1],
        binary(0x21, 0x11, b"\0" * (ADDRESSES_BYTES_MAX + 1)),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read(data)


def test_addresses_that_are_too_short_name_nobody() -> None:
    assert read(binary(0x21, 0x11, b"\xc0\0\2\x09")) == (None, b"")


def test_a_connection_without_a_byte_is_an_end_and_no_mistake() -> None:
    with pytest.raises(EOFError):
        read(b"")


@given(st.binary(max_size=60), st.sampled_from([b"", b"PROXY ", SIGNATURE]))
def test_no_bytes_make_it_fail_in_another_way(data: bytes, start: bytes) -> None:
    with contextlib.suppress(MalformedError, EOFError):
        read(start + data)
