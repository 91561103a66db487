"""DIR/principals.toml: which client certificates and which tokens of an issuer may do what.

    [certificates.billing]                  # cert:billing in the log
    subject = "CN=billing,O=Acme"           # as RFC 4514 writes it
    scopes = ["append"]

    [issuers.corp]                          # oidc:corp:NAME in the log
    issuer = "https://login.example.com"
    audience = "ledger"
    jwks_url = "https://login.example.com/jwks"
    algorithms = ["RS256"]

    [[issuers.corp.rules]]                  # the first that fits counts
    claim = "groups"
    value = "responders"
    scopes = ["read"]

`tenant`, `networks` and `actions` are as those of a token.
"""

import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from ledger.store.tokens import TokenScope, canonical_network, checked_action
from ledger_core.event.model import whole_text
from ledger_core.tlog.errors import MalformedError
from ledger_core.toml import parse_toml

FILE: Final = "principals.toml"
FILE_BYTES_MAX: Final = 1 << 20
LEEWAY_S_MAX: Final = 300

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
Name = Annotated[str, whole_text(r"[a-z0-9][a-z0-9._-]{0,62}")]
Text = Annotated[str, Meta(min_length=1, max_length=1024)]


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a principal may do. `networks` and `actions`: as in `TokenRecord`."""

    scopes: tuple[TokenScope, ...]
    tenant: Text | None = None
    networks: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises: ValueError for what is no network or no action."""
        for network in self.networks:
            canonical_network(network)
        for action in self.actions:
            checked_action(action)


class CertificateGrant(Grant, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The certificates of one principal: by the subject, a name beside it, or both."""

    subject: Text | None = None
    san: Annotated[str, whole_text(r"(DNS|URI|email|IP):.{1,1024}")] | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError also when any certificate would fit."""
        super().__post_init__()
        if not (self.subject or self.san):
            raise ValueError("a certificate needs a subject, a san, or both")


class ClaimGrant(Grant, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The tokens of an issuer with a claim that is, or has among others, a value.

    `tenant_claim`: the claim that has the tenant; a token without it is refused.
    """

    claim: Text | None = None
    value: Text | None = None
    tenant_claim: Text | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError also for a claim without a value, and for two tenants."""
        super().__post_init__()
        if (self.claim is None) != (self.value is None):
            raise ValueError("claim and value need each other")
        if self.tenant is not None and self.tenant_claim is not None:
            raise ValueError("give tenant or tenant_claim")


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An identity provider. `name_claim`: what names a person in the log."""

    issuer: Text
    audience: Text
    jwks_url: Text
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)]
    rules: Annotated[tuple[ClaimGrant, ...], Meta(min_length=1)]
    name_claim: Text = "sub"
    leeway_s: Annotated[int, Meta(ge=0, le=LEEWAY_S_MAX)] = 30
    refresh_s: Annotated[int, Meta(ge=10, le=86_400)] = 300

    def __post_init__(self) -> None:
        """Raises: ValueError for keys that would come unprotected from another host."""
        parts = urlsplit(self.jwks_url)
        is_near = parts.scheme == "http" and _is_loopback(parts.hostname or "")
        if not parts.hostname or not (parts.scheme == "https" or is_near):
            raise ValueError(f"jwks_url is an https address: {self.jwks_url!a}")


class Principals(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of the file."""

    certificates: Mapping[Name, CertificateGrant] = {}
    issuers: Mapping[Name, Issuer] = {}

    def __post_init__(self) -> None:
        """Raises: ValueError when two issuers could have made one token."""
        names = [issuer.issuer for issuer in self.issuers.values()]
        if len(set(names)) < len(names):
            raise ValueError("two issuers have one name")


def read_principals(path: Path) -> str:
    """The text of a file; none when there is no file. Raises: MalformedError, OSError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return ""
    if len(data) > FILE_BYTES_MAX:
        raise MalformedError(f"{path} has more than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"{path}: {error}") from None


def parse_principals(text: str) -> Principals:
    """The principals in the text of a file. Raises: MalformedError naming the place."""
    try:
        return msgspec.convert(parse_toml(text), Principals)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise MalformedError(str(error)) from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
