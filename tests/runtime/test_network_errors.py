"""Why another host was not reached, in a few words."""

import asyncio
import errno
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from ledger.runtime.network_errors import explain_network_error

EXPIRED = ssl.SSLCertVerificationError(1, "expired")
KEY = ConnectionKey("ledger.invalid", 443, True, True, None, None, None, None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 9)"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not"),
        (ssl.SSLError(1, "wrong version number"), "wrong version number"),
        (
            aiohttp.ClientConnectorCertificateError(
                KEY, ssl.SSLCertVerificationError(1, "expired")
            ),
            "expired",
        ),
        (OSError("Multiple exceptions: one, two"), "Multiple exceptions"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_each_kind(error: Exception, said: str) -> None:
    assert said in explain_network_error(error)


def test_a_closed_port() -> None:
    async def get() -> None:
        with socket.socket() as closed:  # bound, and nothing listens
            closed.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{closed.getsockname()[1]}"
            async with aiohttp.ClientSession() as session:
                await session.get(url)

    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        asyncio.run(get())
    assert explain_network_error(caught.value) == "Connection refused"
