"""Asks a service on this machine whether it answers, and for its report."""

import http.client
import ssl
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Final, NamedTuple

import msgspec

from ledger.service.settings import Settings
from ledger_client.runtime.server import parse_listen

WAIT_S: Final = 5.0
BYTES_MAX: Final = 1 << 22
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not bound


class Asked(NamedTuple):
    """The answers of a service that runs: `/readyz` and `/v1/log`."""

    ready: Mapping[str, Any]
    log: Mapping[str, Any]


def own_address(settings: Settings) -> str:
    """The address at which the service of a folder answers on this machine."""
    host, port = parse_listen(settings.listen)
    host = _EVERYWHERE.get(host, host)
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.tls_cert else 'http'}://{host}:{port}"


def ask_service(address: str) -> Asked | None:
    """The service's report on itself, or None when none answers there.

    No token is sent and nothing that it answers is relied on, so its certificate, which is for
    another name than this machine has for itself, is not checked.
    """
    scheme, _, host = address.partition("://")
    try:
        with closing(_connect(scheme, host)) as connection:
            return Asked(_ask(connection, "/readyz"), _ask(connection, "/v1/log"))
    except (OSError, http.client.HTTPException, msgspec.MsgspecError):
        return None


def _connect(scheme: str, host: str) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, timeout=WAIT_S)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, timeout=WAIT_S, context=context)


def _ask(connection: http.client.HTTPConnection, target: str) -> Mapping[str, Any]:
    connection.request("GET", target)
    found: dict[str, Any] = msgspec.json.decode(
        connection.getresponse().read(BYTES_MAX), type=dict[str, Any]
    )
    return found
