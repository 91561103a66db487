"""Answers requests of the ssh-agent protocol on a Unix socket: which keys there are, and sign.

One thread a connection, `CONNECTIONS_MAX` at most, and one signature at a time. Every other request
is refused: no key is added, removed or locked. Whoever may open the socket may have anything signed
with the keys, so the socket is for its owner and group alone.

Source: draft-ietf-sshm-ssh-agent.
"""

import os
import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import structlog

from ledger.runtime.ssh_agent import (
    FAILURE,
    IDENTITIES_ANSWER,
    REQUEST_IDENTITIES,
    SIGN_REQUEST,
    SIGN_RESPONSE,
    pack_key,
    pack_string,
    read_message,
    unpack_key,
    unpack_strings,
)
from ledger.signer.pkcs11_token import Pkcs11Token
from ledger_core.tlog.errors import MalformedError, UnavailableError

CONNECTIONS_MAX: Final = 16
IDLE_S: Final = 30.0
PROBE_S: Final = 1.0
SOCKET_MODE: Final = 0o660
_FLAGS_BYTES: Final = 4

_log = structlog.get_logger("ledger.signer")


class SigningAgent:
    """Serves the keys of a token on a socket, from threads of its own."""

    def __init__(self, path: Path, token: Pkcs11Token) -> None:
        """Raises: UnavailableError when another agent listens there."""
        self._token: Final = token
        self._signing: Final = threading.Lock()
        self._places: Final = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._listener: Final = _listen(path)
        self._path: Final = path

    def serve(self) -> None:
        """Answer until `stop`."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def stop(self) -> None:
        """Take no more connections, and remove the socket."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _serve_one(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(IDLE_S)
                while request := read_message(connection):
                    connection.sendall(pack_string(self._answer(request)))
        except (OSError, MalformedError) as error:
            _log.info("connection_ended", reason=str(error) or type(error).__name__)
        finally:
            self._places.release()

    def _answer(self, request: bytes) -> bytes:
        """The answer to one request."""
        try:
            if request == bytes([REQUEST_IDENTITIES]):
                return self._list_keys()
            if request[0] == SIGN_REQUEST:
                return self._sign(request[1:])
        except (MalformedError, KeyError):
            return bytes([FAILURE])
        except UnavailableError as error:
            _log.error("not_signed", reason=str(error))
        return bytes([FAILURE])

    def _list_keys(self) -> bytes:
        keys = self._token.keys()
        each = (
            pack_string(pack_key(key)) + pack_string(label.encode()) for key, label in keys.items()
        )
        return bytes([IDENTITIES_ANSWER]) + len(keys).to_bytes(4) + b"".join(each)

    def _sign(self, body: bytes) -> bytes:
        key, message = unpack_strings(body[:-_FLAGS_BYTES], 2)
        with self._signing:
            signature = self._sign_or_open(unpack_key(key), message)
        return bytes([SIGN_RESPONSE]) + pack_string(pack_key(signature))

    def _sign_or_open(self, public_key: bytes, message: bytes) -> bytes:
        """Sign; after an error log into the token again, once."""
        try:
            return self._token.sign(public_key, message)
        except (KeyError, UnavailableError):
            self._token.open()
        signature = self._token.sign(public_key, message)
        _log.info("token_opened_again")
        return signature


def _listen(path: Path) -> socket.socket:
    """A socket at a path where no other agent listens; one that was left behind is replaced."""
    with ExitStack() as opened:
        listener = opened.enter_context(socket.socket(socket.AF_UNIX))
        try:
            _check_free(path)
            path.unlink(missing_ok=True)
            before = os.umask(0o777 & ~SOCKET_MODE)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
            listener.listen()
        except OSError as error:
            reason = error.strerror or error
            raise UnavailableError(f"cannot listen on {path}: {reason}") from error
        opened.pop_all()
    return listener


def _check_free(path: Path) -> None:
    """Raises: UnavailableError when a process answers at a path, or it is no socket; OSError."""
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise UnavailableError(f"{path} is no socket: nothing was removed, name another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_S)
        if probe.connect_ex(str(path)) == 0:
            raise UnavailableError(f"another process answers at {path}")
