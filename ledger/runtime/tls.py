"""TLS of a server: its certificate and key, which are read again while it serves.

Each connection takes the context that is there when it begins, so a new certificate holds from the
next connection on, and open connections go on. A pair that can't be used leaves the one before in
use.
"""

import os
import ssl
import stat
from pathlib import Path
from typing import Final, NoReturn

import structlog
from cryptography import x509

from ledger_client.runtime.clock import unix_s
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import MalformedError, UnavailableError

PROTOCOLS: Final = ("http/1.1",)
EXPIRY_WARNING_S: Final = 14 * 86_400
"""Seconds before the end of a certificate from which `/readyz` warns."""

_log = structlog.get_logger("ledger.runtime")


class ServerTls:
    """The certificate and key that new connections get. Used on one event loop."""

    def __init__(self, cert: str, key: str) -> None:
        """Read both files. Raises: as `reload`."""
        self.context: ssl.SSLContext
        self.expires_unix_s = 0
        self._read(cert, key)

    def reload(self, cert: str, key: str) -> None:
        """Read both files again, for connections to come.

        Raises: UnavailableError for a file that can't be read, or a key that everybody may read;
        MalformedError for what is no certificate, or a key that is encrypted or another one's.
        """
        self._read(cert, key)
        _log.info("tls_reloaded", expires=format_time(self.expires_unix_s * 1_000_000))

    def warnings(self) -> list[str]:
        """That the certificate ends soon, or has ended."""
        left_s = self.expires_unix_s - unix_s()
        if left_s > EXPIRY_WARNING_S:
            return []
        ends = "has expired" if left_s <= 0 else "expires"
        when = format_time(self.expires_unix_s * 1_000_000)
        return [f"the TLS certificate {ends} at {when}: replace its files and send SIGHUP"]

    def _read(self, cert: str, key: str) -> None:
        expires_unix_s = _read_expiry(Path(cert))
        self.context = _make_context(Path(cert), Path(key))
        self.expires_unix_s = expires_unix_s


def open_tls(cert: str, key: str) -> ServerTls | None:
    """The TLS of a server; None without a certificate. Raises: as `ServerTls.reload`."""
    if bool(cert) != bool(key):
        missing, given = ("--tls-key", "--tls-cert") if cert else ("--tls-cert", "--tls-key")
        raise MalformedError(f"{given} needs {missing}: TLS takes a certificate and its key")
    return ServerTls(cert, key) if cert else None


def reload_tls(tls: ServerTls, cert: str, key: str) -> None:
    """Read the files again; a pair that can't be used is logged, and the one before stays."""
    try:
        tls.reload(cert, key)
    except (MalformedError, UnavailableError) as error:
        _log.error("tls_not_reloaded", reason=str(error))


def scheme(tls: ServerTls | None) -> str:
    """The scheme of the server's address."""
    return "http" if tls is None else "https"


def _make_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A context that takes TLS 1.2 and later."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(PROTOCOLS))
    _check_key(key)
    try:
        context.load_cert_chain(cert, key, password=_refuse_encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise MalformedError(
                f"the key in {key} is not that of the certificate in {cert}"
            ) from None
        raise MalformedError(
            f"{cert} and {key} do not hold a certificate and its key in PEM form: "
            f"{error.reason or 'nothing was found'}"
        ) from None
    except _EncryptedKeyError:
        raise MalformedError(
            f"the TLS key in {key} is encrypted, and nobody is there to type its passphrase: "
            f"openssl pkey -in {key} -out KEY writes it without one"
        ) from None
    return context


def _check_key(key: Path) -> None:
    """Raises: UnavailableError when the key can't be read, or everybody may."""
    data_mode = 0
    try:
        with key.open("rb") as file:
            data_mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise UnavailableError(f"the TLS key {key} can't be read: {error.strerror}") from None
    if data_mode & stat.S_IRWXO:
        raise UnavailableError(f"everybody on this host can read the TLS key {key}: chmod o= {key}")


def _read_expiry(cert: Path) -> int:
    """When the first certificate of a file ends. Raises: as `ServerTls.reload`."""
    try:
        data = cert.read_bytes()
    except OSError as error:
        raise UnavailableError(
            f"the TLS certificate {cert} can't be read: {error.strerror}"
        ) from None
    try:
        first = x509.load_pem_x509_certificates(data)[0]
    except ValueError:
        raise MalformedError(f"{cert} holds no certificate in PEM form") from None
    return int(first.not_valid_after_utc.timestamp())


class _EncryptedKeyError(Exception):
    """A key needs a passphrase."""


def _refuse_encrypted() -> NoReturn:
    raise _EncryptedKeyError
