"""TLS of a server: its certificate and key, which are read again while it serves.

Each connection takes the context that is there when it begins, so a new certificate holds from the
next connection on, and open connections go on. A pair that can't be used leaves the one before in
use. Where the authorities of clients are others than before, or their revocation lists, what an
open connection showed counts no more (`shows_outdated`).

The files are read once and used as they were then: a process that is started again later gets the
same bytes (`TlsMaterial`), whatever is on the disk by then.
"""

import os
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn, Protocol
from weakref import WeakSet

import msgspec
import structlog
from cryptography import x509

from ledger.runtime.memory import nameless_file
from ledger_client.runtime.clock import unix_s
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import MalformedError, UnavailableError

PROTOCOLS: Final = ("http/1.1",)
EXPIRY_WARNING_S: Final = 14 * 86_400
"""Seconds before the end of a certificate from which `/readyz` warns."""

FILE_BYTES_MAX: Final = 16 << 20
"""Bytes of a file: lists of revoked certificates may be long."""

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


class TlsFile(msgspec.Struct, frozen=True, array_like=True):
    """A file as it was read."""

    name: str
    data: bytes


class TlsMaterial(msgspec.Struct, frozen=True, array_like=True):
    """The content of the files. `client_ca`: the authorities of clients, if clients are asked."""

    cert: TlsFile
    key: TlsFile
    client_ca: TlsFile | None = None


class _ServerContext(ssl.SSLContext):
    """A context that knows which authorities its connections' clients were verified by."""

    client_ca: bytes | None = None
    is_outdated: bool = False
    """Whether clients are verified by other authorities now."""


class ServerTls:
    """The certificate and key that new connections get. Used on one event loop."""

    def __init__(self, material: TlsMaterial) -> None:
        """Raises: MalformedError for what is no certificate, or a key that is encrypted."""
        self.context: ssl.SSLContext
        self.expires_unix_s = 0
        self._contexts: WeakSet[_ServerContext] = WeakSet()
        self._use(material)

    def take(self, material: TlsMaterial) -> None:
        """Use these for connections to come. Raises: MalformedError; then those before stay."""
        self._use(material)
        _log.info("tls_reloaded", expires=format_time(self.expires_unix_s * 1_000_000))

    def warnings(self) -> list[str]:
        """That the certificate ends soon, or has ended."""
        left_s = self.expires_unix_s - unix_s()
        if left_s > EXPIRY_WARNING_S:
            return []
        ends = "has expired" if left_s <= 0 else "expires"
        when = format_time(self.expires_unix_s * 1_000_000)
        return [f"the TLS certificate {ends} at {when}: replace its files and send SIGHUP"]

    def _use(self, material: TlsMaterial) -> None:
        expires_unix_s = _read_expiry(material.cert)
        context = _make_context(material.cert, material.key)
        if material.client_ca is not None:
            _ask_clients(context, material.client_ca)
        self.context, self.expires_unix_s = context, expires_unix_s
        for each in self._contexts:
            each.is_outdated = each.is_outdated or each.client_ca != context.client_ca
        self._contexts.add(context)


def shows_outdated(connection: ssl.SSLObject) -> bool:
    """Whether the authorities that verified a connection's client are no more those in use.

    One of them may have been taken away, or have revoked the certificate since.
    """
    return isinstance(connection.context, _ServerContext) and connection.context.is_outdated


def read_tls(files: TlsFiles) -> TlsMaterial | None:
    """Read the files; None without a certificate.

    Raises: UnavailableError for a file that can't be read, or a key that everybody may read;
    MalformedError when one of the settings is missing, or a file is too long.
    """
    client_ca = getattr(files, "tls_client_ca", "")
    if bool(files.tls_cert) != bool(files.tls_key):
        names = ("--tls-cert", "--tls-key")
        given, missing = names if files.tls_cert else reversed(names)
        raise MalformedError(f"{given} needs {missing}: TLS takes a certificate and its key")
    if client_ca and not files.tls_cert:
        raise MalformedError("--tls-client-ca needs --tls-cert: client certificates are of TLS")
    if not files.tls_cert:
        return None
    return TlsMaterial(
        _read_file(files.tls_cert, "the TLS certificate"),
        _read_file(files.tls_key, "the TLS key", is_secret=True),
        _read_file(client_ca, "the authorities of clients in") if client_ca else None,
    )


def open_tls(files: TlsFiles) -> ServerTls | None:
    """The TLS of a server; None without a certificate. Raises: as `read_tls`, `ServerTls`."""
    material = read_tls(files)
    return None if material is None else ServerTls(material)


def reload_tls(tls: ServerTls, files: TlsFiles) -> None:
    """Read the files again; a pair that can't be used is logged, and the one before stays."""
    try:
        material = read_tls(files)
        if material is not None:
            tls.take(material)
    except (MalformedError, UnavailableError) as error:
        _log.error("tls_not_reloaded", reason=str(error))


def scheme(tls: ServerTls | TlsMaterial | None) -> str:
    """The scheme of the server's address."""
    return "http" if tls is None else "https"


def _read_file(name: str, what: str, *, is_secret: bool = False) -> TlsFile:
    try:
        with Path(name).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UnavailableError(f"{what} {name} can't be read: {error.strerror}") from None
    if is_secret and mode & stat.S_IRWXO:
        raise UnavailableError(f"everybody on this host can read {what} {name}: chmod o= {name}")
    if len(data) > FILE_BYTES_MAX:
        raise MalformedError(f"{what} {name} has more than {FILE_BYTES_MAX:,} bytes")
    return TlsFile(name, data)


def _make_context(cert: TlsFile, key: TlsFile) -> _ServerContext:
    """A context that takes TLS 1.2 and later."""
    context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(PROTOCOLS))
    try:
        with _path_of(cert) as cert_path, _path_of(key) as key_path:
            context.load_cert_chain(cert_path, key_path, password=_refuse_encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise MalformedError(
                f"the key in {key.name} is not that of the certificate in {cert.name}"
            ) from None
        raise MalformedError(
            f"{cert.name} and {key.name} do not hold a certificate and its key in PEM form: "
            f"{error.reason or 'nothing was found'}"
        ) from None
    except _EncryptedKeyError:
        raise MalformedError(
            f"the TLS key in {key.name} is encrypted, and nobody is there to type its passphrase: "
            f"openssl pkey -in {key.name} -out KEY writes it without one"
        ) from None
    return context


def _ask_clients(context: _ServerContext, authorities: TlsFile) -> None:
    """Ask each client for a certificate of these authorities; one without any may come too.

    Revocation lists in the file are applied. Raises: MalformedError.
    """
    if _REVOCATIONS in authorities.data:
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    try:
        # `cadata` would leave out the revocation lists.
        with _path_of(authorities) as path:
            context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise MalformedError(f"{authorities.name} holds no certificate in PEM form") from None
    context.verify_mode = ssl.CERT_OPTIONAL
    context.client_ca = authorities.data


@contextmanager
def _path_of(file: TlsFile) -> Iterator[str]:
    """A path at which OpenSSL, which reads files alone, finds the bytes of a file."""
    with nameless_file() as copy:
        copy.write(file.data)
        copy.seek(0)
        yield f"/dev/fd/{copy.fileno()}"


def _read_expiry(cert: TlsFile) -> int:
    """When the first certificate of a file ends. Raises: MalformedError."""
    try:
        first = x509.load_pem_x509_certificates(cert.data)[0]
    except ValueError:
        raise MalformedError(f"{cert.name} holds no certificate in PEM form") from None
    return int(first.not_valid_after_utc.timestamp())


class _EncryptedKeyError(Exception):
    """A key needs a passphrase."""


def _refuse_encrypted() -> NoReturn:
    raise _EncryptedKeyError
