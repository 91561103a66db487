"""Says in a few words why another host was not reached."""

import os
import socket
import ssl

import aiohttp

from ledger_core.tlog.text import printable


def explain_network_error(error: BaseException) -> str:
    """`Connection refused`, without the library's names of sockets and options.

    Nor has it an address, whose path or query may be a secret, or bytes of an answer: the library
    quotes both where an answer is not HTTP.
    """
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
        return "the answer is not valid HTTP"
    if isinstance(error, aiohttp.InvalidURL):
        return "the address is not valid"
    cause = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    if isinstance(cause, OSError) and cause.errno:
        if isinstance(cause, socket.gaierror):
            return printable(cause.strerror or str(cause))
        if not isinstance(cause, ssl.SSLError):  # its numbers are OpenSSL's
            return os.strerror(cause.errno)
    return printable(str(cause) or type(cause).__name__)
