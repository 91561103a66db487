"""The sockets that front ends take connections from.

Each front end has a socket of its own on the one address (`SO_REUSEPORT`), and the kernel spreads
new connections over them. The sequencer's process opens all of them and keeps them open: a
connection that waits for a front end that has ended is taken by the one that is started in its
place. Where there is no SO_REUSEPORT all front ends have the same socket.
"""

import socket
from contextlib import ExitStack

from ledger_client.runtime.server import CONNECTIONS_WAITING_MAX, parse_listen
from ledger_core.tlog.errors import UnavailableError

HAS_REUSEPORT = hasattr(socket, "SO_REUSEPORT")

Sockets = list[socket.socket]
Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def open_listening(listen: str, processes: int) -> tuple[list[Sockets], str]:
    """The listening sockets of each front end, and the address, with the port that was chosen.

    A host name may have several addresses, and each has a socket. Raises: UnavailableError.
    """
    host, port = parse_listen(listen)
    with ExitStack() as opened:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys((family, address) for family, *_, address in found))
            groups: list[Sockets] = [[] for _ in range(processes)]
            for family, address in addresses:
                _check_free(family, address)
                first = opened.enter_context(_bind(family, address))
                sockets = [first]
                for _ in groups[1:]:
                    another = _bind(family, first.getsockname()) if HAS_REUSEPORT else first
                    sockets.append(opened.enter_context(another))
                for group, each in zip(groups, sockets, strict=True):
                    each.listen(CONNECTIONS_WAITING_MAX)
                    group.append(each)
        except OSError as error:
            raise UnavailableError(f"cannot listen on {listen}: {error.strerror}") from error
        opened.pop_all()
    host, port = groups[0][0].getsockname()[:2]
    return groups, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _check_free(family: socket.AddressFamily, address: Address) -> None:
    """Fail when another process listens there: SO_REUSEPORT would share its port with it.

    Raises: OSError.
    """
    _bind(family, address, shares=False).close()


def _bind(family: socket.AddressFamily, address: Address, *, shares: bool = True) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shares and HAS_REUSEPORT:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind(address)
    except OSError:
        opened.close()
        raise
    return opened
