"""The principal of a client certificate, which TLS has verified.

A certificate is matched by its whole subject or by one whole name beside it; nothing is matched by
a beginning or a pattern. One that no entry names is no principal, and neither is one whose
extensions can't be read: TLS accepts more than the parser that finds names in them.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from cryptography import x509

from ledger.runtime.tls import shows_outdated
from ledger.service.identities.config import CertificateGrant
from ledger.store.tokens import TokenRecord
from ledger_core.event.times import format_time

PREFIX: Final = "cert:"
CACHED_MAX: Final = 1024

_UNREADABLE: Final = (
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def certificate_of(transport: asyncio.BaseTransport | None) -> bytes | None:
    """The DER of the certificate that a client showed and TLS verified, or None."""
    connection = transport and transport.get_extra_info("ssl_object")
    return connection.getpeercert(binary_form=True) if connection else None


def is_outdated(transport: asyncio.BaseTransport | None) -> bool:
    """Whether a certificate was shown, and the authorities are others since.

    Such a connection is closed after the answer that is under way (`ledger.service.http.server`).
    """
    if certificate_of(transport) is None or transport is None:
        return False
    return shows_outdated(transport.get_extra_info("ssl_object"))


class Certificates:
    """Finds principals. Used on one event loop."""

    def __init__(self, grants: Mapping[str, CertificateGrant]) -> None:
        self._grants: Final = grants
        self._found: dict[bytes, TokenRecord | str] = {}

    def find(self, der: bytes) -> TokenRecord | str:
        """The principal of a certificate, or why there is none."""
        found = self._found.get(der)
        if found is None:
            if len(self._found) >= CACHED_MAX:
                self._found.clear()
            found = self._found[der] = self._find(der)
        return found

    def _find(self, der: bytes) -> TokenRecord | str:
        try:
            certificate = x509.load_der_x509_certificate(der)
            subject, names = certificate.subject.rfc4514_string(), _names(certificate)
            expires = format_time(int(certificate.not_valid_after_utc.timestamp()) * 10**6)
        except _UNREADABLE as error:
            return f"the client certificate can't be read: {type(error).__name__}"
        for name, grant in self._grants.items():
            if grant.subject in (None, subject) and (grant.san is None or grant.san in names):
                return TokenRecord(
                    name=PREFIX + name,
                    scopes=grant.scopes,
                    created="",
                    tenant=grant.tenant,
                    expires=expires,
                    networks=grant.networks,
                    actions=grant.actions,
                )
        return f"principals.toml has no entry for the client certificate of {subject[:200]!a}"


def _names(certificate: x509.Certificate) -> set[str]:
    """The names beside the subject, as openssl writes them: DNS:…, URI:…, email:…, IP:…."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    texts = (("DNS", x509.DNSName), ("URI", x509.UniformResourceIdentifier))
    names = {f"{kind}:{each}" for kind, type_ in texts for each in found.get_values_for_type(type_)}
    names |= {f"email:{each}" for each in found.get_values_for_type(x509.RFC822Name)}
    return names | {f"IP:{each}" for each in found.get_values_for_type(x509.IPAddress)}
