"""TLS of a server: its certificate and key, which are read again while it serves.

Each connection takes the context that is there when it begins, so a new certificate holds from the
next connection on, and open connections go on. A pair that can't be used leaves the one before in
use.
"""

import os
import ssl
import stat
from pathlib import Path
from typing import Final, NoReturn, Protocol

import structlog
from cryptography import x509

from ledger_client.runtime.clock import unix_s
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import MalformedError, UnavailableError

PROTOCOLS: Final = ("http/1.1",)
EXPIRY_WARNING_S: Final = 14 * 86_400
"""Seconds before the end of a certificate from which `/readyz` warns."""

_REVOCATIONS: Final = b"-----BEGIN X509 CRL-----"

_log = structlog.get_logger("ledger.runtime")


class TlsFiles(Protocol):
    """The settings that name the files; an empty text for none."""

    @property
    def tls_cert(self) -> str:
        """The certificate."""
        ...

    @property
    def tls_key(self) -> str:
        """Its key."""
        ...


class ServerTls:
    """The certificate and key that new connections get. Used on one event loop."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files. Raises: as `reload`."""
        self.context: ssl.SSLContext
        self.expires_unix_s = 0
        self._read(files)

    def reload(self, files: TlsFiles) -> None:
        """Read the files again, for connections to come.

        Raises: UnavailableError for a file that can't be read, or a key that everybody may read;
        MalformedError for what is no certificate, or a key that is encrypted or another one's.
        """
        self._read(files)
        _log.info("tls_reloaded", expires=format_time(self.expires_unix_s * 1_000_000))

    def warnings(self) -> list[str]:
        """That the certificate ends soon, or has ended."""
        left_s = self.expires_unix_s - unix_s()
        if left_s > EXPIRY_WARNING_S:
            return []
        ends = "has expired" if left_s <= 0 else "expires"
        when = format_time(self.expires_unix_s * 1_000_000)
        return [f"the TLS certificate {ends} at {when}: replace its files and send SIGHUP"]

    def _read(self, files: TlsFiles) -> None:
        cert = Path(files.tls_cert)
        expires_unix_s = _read_expiry(cert)
        context = _make_context(cert, Path(files.tls_key))
        if client_ca := getattr(files, "tls_client_ca", ""):
            _ask_clients(context, Path(client_ca))
        self.context, self.expires_unix_s = context, expires_unix_s


def open_tls(files: TlsFiles) -> ServerTls | None:
    """The TLS of a server; None without a certificate. Raises: as `ServerTls.reload`."""
    if bool(files.tls_cert) != bool(files.tls_key):
        names = ("--tls-cert", "--tls-key")
        given, missing = names if files.tls_cert else reversed(names)
        raise MalformedError(f"{given} needs {missing}: TLS takes a certificate and its key")
    if getattr(files, "tls_client_ca", "") and not files.tls_cert:
        raise MalformedError("--tls-client-ca needs --tls-cert: client certificates are of TLS")
    return ServerTls(files) if files.tls_cert else None


def reload_tls(tls: ServerTls, files: TlsFiles) -> None:
    """Read the files again; a pair that can't be used is logged, and the one before stays."""
    try:
        tls.reload(files)
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


def _ask_clients(context: ssl.SSLContext, authorities: Path) -> None:
    """Ask each client for a certificate of these authorities; one without any may come too.

    Revocation lists in the file are applied. Raises: as `ServerTls.reload`.
    """
    try:
        if _REVOCATIONS in authorities.read_bytes():
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        context.load_verify_locations(cafile=authorities)
    except ssl.SSLError:
        raise MalformedError(f"{authorities} holds no certificate in PEM form") from None
    except OSError as error:
        raise UnavailableError(
            f"the authorities of clients in {authorities} can't be read: {error.strerror}"
        ) from None
    context.verify_mode = ssl.CERT_OPTIONAL


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
