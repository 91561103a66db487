"""Serves a witness behind NAT by a bastion: a reverse proxy that the witness connects to.

The witness opens a connection with TLS 1.3 and the protocol `bastion/0`, shows a certificate of an
Ed25519 key, and then serves HTTP/2 on it, as if the bastion were a client that had connected. A log
asks `https://BASTION/<SHA-256 of the public key>/add-checkpoint`. The bastion sees and can hold up
all requests, and can change none without being noticed: heads and cosignatures are signed.

The key is one of its own, `DIR/bastion.pem`: it authenticates the connection and nothing else, so
the witness's key is in no library of TLS, and may be held by another process.

Source: c2sp.org/https-bastion. Needs `h2`, the extra `bastion` of the service.
"""

import asyncio
import random
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from ledger.runtime.network_errors import explain_network_error
from ledger.witness.bastion_streams import BastionStreams
from ledger.witness.service import Witness
from ledger_client.runtime.backoff import exponential_s, spread
from ledger_client.runtime.files import create_whole, read_limited
from ledger_core.tlog.errors import MalformedError, UnavailableError

PROTOCOL: Final = "bastion/0"
KEY_FILE: Final = "bastion.pem"
PORT: Final = 443
KEY_BYTES_MAX: Final = 1 << 16
BASTIONS_MAX: Final = 16
CONNECT_WAIT_S: Final = 10.0
RETRY_BASE_S: Final = 0.5
RETRY_MAX_S: Final = 60.0
LASTING_S: Final = 60.0
"""A connection that lasted so long was good: the waits begin anew."""

PING_S: Final = 20.0
"""Seconds without a byte from the bastion until it is asked whether it is there."""

SILENCE_MAX_S: Final = 60.0
"""Seconds without a byte, or without room for an answer, after which a connection is given up: NAT
forgets idle ones."""

READ_BYTES: Final = 1 << 16
VALID_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)
VALID_UNTIL: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Of the certificate: a bastion looks at the key alone. RFC 5280 §4.1.2.5: no well-defined end."""

_log = structlog.get_logger("ledger.witness")


class Bastion:
    """A bastion that a witness is connected to as long as it runs."""

    def __init__(
        self,
        address: tuple[str, int],
        tls: ssl.SSLContext,
        witness: Witness,
        *,
        body_wait_s: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`address`: host and port. `draw`: a random number in [0, 1), by which waits differ."""
        self._host, self._port = address
        self._tls: Final = tls
        self._witness: Final = witness
        self._body_wait_s: Final = body_wait_s
        self._draw: Final = draw
        self._failures = 0
        self._lost: str | None = None
        """Why there is no connection; empty while there is one, None before the first attempt."""

    async def run(self) -> None:
        """Connect and serve, again after growing waits, until cancelled."""
        while True:
            start_s = time.monotonic()
            try:
                await self._serve()
                reason = "the bastion closed the connection"
            except ssl.SSLCertVerificationError as error:
                reason = explain_network_error(error)
            except ssl.SSLError as error:
                reason = f"{explain_network_error(error)}: does the bastion know this key?"
            except TimeoutError:
                reason = "no answer in time"
            except (OSError, MalformedError) as error:
                reason = explain_network_error(error)
            if time.monotonic() - start_s >= LASTING_S:
                self._failures = 0
            self._failures += 1
            if reason != self._lost:  # Once a state, not once an attempt.
                self._lost = reason
                _log.warning("bastion_lost", bastion=self._name, reason=reason)
            delay_s = exponential_s(self._failures, base_s=RETRY_BASE_S, limit_s=RETRY_MAX_S)
            await asyncio.sleep(spread(delay_s, self._draw()))

    @property
    def _name(self) -> str:
        return f"{self._host}:{self._port}"

    async def _serve(self) -> None:
        async with asyncio.timeout(CONNECT_WAIT_S):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            if writer.get_extra_info("ssl_object").selected_alpn_protocol() != PROTOCOL:
                raise MalformedError(f"it does not speak {PROTOCOL}: no bastion is there")
            streams = BastionStreams(self._witness, writer, body_wait_s=self._body_wait_s)
            try:
                await self._read(reader, streams)
            finally:
                streams.close()
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, streams: BastionStreams) -> None:
        heard_s = time.monotonic()
        while True:
            data = b""
            try:
                async with asyncio.timeout(PING_S):
                    data = await reader.read(READ_BYTES)
            except TimeoutError:
                if time.monotonic() - heard_s >= SILENCE_MAX_S:
                    raise
                streams.ping()
                continue
            if not data:
                return
            heard_s = time.monotonic()
            # A bastion that sends and does not read would hold this connection for ever.
            async with asyncio.timeout(SILENCE_MAX_S):
                is_open = await streams.receive(data)
            # In TLS 1.3 a bastion that refuses the key says so after the handshake, so the first
            # frames show that it was accepted.
            if self._lost != "":
                self._lost = ""
                _log.info("bastion_connected", bastion=self._name)
            if not is_open:
                return


def parse_bastions(text: str) -> list[tuple[str, int]]:
    """The hosts and ports of `host[:port],…`. Raises: MalformedError."""
    found = []
    for each in filter(None, text.split(",")):
        try:
            parts = urlsplit(f"//{each.strip()}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise MalformedError(f"bastion: {error}") from None
        if not host or parts.netloc != each.strip() or "@" in each:
            raise MalformedError(f"bastion: want host or host:port, got {each!a}")
        found.append((host, PORT if port is None else port))
    if len(found) > BASTIONS_MAX:
        raise MalformedError(f"bastion: at most {BASTIONS_MAX}, got {len(found)}")
    return found


def open_key(directory: Path) -> Path:
    """The file of the key and its certificate, made if there is none. Raises: OSError."""
    path = directory / KEY_FILE
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        create_whole(path, pem + _self_signed(key))
    return path


def key_hash(directory: Path) -> str | None:
    """The SHA-256 of the public key in hex, which bastions know; None if there is no key.

    Raises: MalformedError.
    """
    try:
        pem = read_limited(directory / KEY_FILE, KEY_BYTES_MAX)
        key = load_pem_private_key(pem, password=None)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise MalformedError(f"{directory / KEY_FILE}: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise MalformedError(f"{directory / KEY_FILE}: not an Ed25519 key")
    return sha256(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def client_tls(directory: Path, *, ca_file: str) -> ssl.SSLContext:
    """TLS 1.3 to a bastion, whose certificate is checked. Raises: UnavailableError."""
    path = open_key(directory)
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        context.load_cert_chain(path)
    except (OSError, ssl.SSLError) as error:
        raise UnavailableError(f"{path}, {ca_file or 'the certificates'}: {error}") from None
    # Only TLS 1.3 hides the client's certificate from those on the way.
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([PROTOCOL])
    return context


def _self_signed(key: Ed25519PrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bastion backend")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(VALID_FROM)
        .not_valid_after(VALID_UNTIL)
        .sign(key, algorithm=None)
    )
    return certificate.public_bytes(Encoding.PEM)
