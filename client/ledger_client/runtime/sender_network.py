"""The network by which an unknown sender is counted.

A host with IPv6 has the 2^64 addresses of its network, so limits for one address would limit
nothing.
Source: RFC 7934 §5; RFC 4291 §2.5.4.
"""

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network
from typing import Final

HOST_BITS: Final = 64


@lru_cache(maxsize=4096)
def sender_network(address: str) -> str:
    """The /64 of an IPv6 address, whatever its zone; any other text is returned as it is."""
    if ":" not in address:
        return address
    try:
        number = int(IPv6Address(address.partition("%")[0]))
    except ValueError:
        return address
    return str(IPv6Network((number >> HOST_BITS << HOST_BITS, 128 - HOST_BITS)))
