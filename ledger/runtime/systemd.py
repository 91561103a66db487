"""The protocol between systemd and a service: readiness, and sockets that systemd has opened.

Source: sd_notify(3) and sd_listen_fds(3); no library of systemd is needed.
"""

import os
import socket
import time
from typing import Final

import structlog

FIRST_DESCRIPTOR: Final = 3

_log = structlog.get_logger("ledger.runtime")


def notify(*states: str) -> None:
    """Tell the service manager what this process does: `READY=1`; nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.sendto("\n".join(states).encode(), address.replace("@", "\0", 1))
    except OSError as error:
        _log.warning("service_manager_not_told", reason=error.strerror)


def notify_ready(status: str = "") -> None:
    """Tell the service manager that requests are answered, with a line for people."""
    notify("READY=1", *([f"STATUS={status}"] if status else []))


def notify_reloading() -> None:
    """Tell the service manager that files are read again; `notify_ready` ends that."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def passed_sockets() -> list[socket.socket]:
    """The listening sockets that the service manager opened for this process; asked once."""
    process_id, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if process_id != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count)):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - the signature of os
        found.append(socket.socket(fileno=descriptor))
    return found
