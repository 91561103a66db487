"""Runs a server in this process: its event loop, its address, and the signal to end."""

import asyncio
import gc
import resource
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from ledger_core.tlog.errors import MalformedError

CONNECTIONS_WAITING_MAX: Final = 1024
GC_THRESHOLDS: Final = (20_000, 20, 50)

_PORT_MAX: Final = 65535


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8765` or `[::1]:8765`. Raises: MalformedError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= _PORT_MAX):
        raise MalformedError(f"not an address and a port, such as 127.0.0.1:8765: {text!a}")
    return host, int(port)


def format_address(host: str, port: int, *, scheme: str) -> str:
    """The address of a server: `http://[::1]:8765`."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def run_until_signal(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a server on an event loop of its own; SIGTERM and SIGINT set the event that ends it.

    A crash of this process, or of one that it starts, leaves no file with its memory: there are
    keys in it, tokens, and values that are erased later.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_until_signal(serve))


async def _until_signal(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    # What a request makes refers to nothing that refers back, so most collections find nothing;
    # and what was made at the start stays until the end.
    gc.set_threshold(*GC_THRESHOLDS)
    gc.freeze()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(stop)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed, else None for asyncio's own."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop
