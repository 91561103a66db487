"""Client certificates as principals: who is mapped may do what the mapping says, and no more."""

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ledger.runtime.tls import open_tls
from ledger.service.identities.certificates import Certificates
from ledger.service.identities.config import CertificateGrant
from ledger_core.tlog.errors import MalformedError, UnavailableError
from tests.client.syslog.certificates import Authority
from tests.service.serving import Ledger, event, make_ledger, serving
from tests.tls.asking import WAIT_S, Pair, serving_live
from tests.tls.test_tls import with_tls

PRINCIPALS = """
[certificates.billing]
subject = "CN=billing"
scopes = ["append"]
actions = ["billing.*"]
tenant = "acme"

[certificates.auditor]
san = "IP:127.0.0.1"
scopes = ["read"]
"""


class Clients:
    """An authority of clients, its list of revoked certificates, and what it issued."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.authority = Authority(folder)
        self.bundle = folder / "clients.pem"
        self.bundle.write_bytes(self.authority.certificate.read_bytes())
        self.issued = {name: self.authority.issue(name)[:2] for name in ("billing", "other")}
        self.stranger = Authority(folder / "..").issue("stranger")[:2]

    def revoke(self, name: str) -> None:
        """Put a list that has this certificate beside the authority."""
        issued = x509.load_pem_x509_certificate(self.issued[name][0].read_bytes())
        now = datetime.now(UTC)
        revoked = x509.RevokedCertificateBuilder().serial_number(issued.serial_number)
        revocations = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issued.issuer)
            .last_update(now - timedelta(days=1))
            .next_update(now + timedelta(days=1))
            .add_revoked_certificate(revoked.revocation_date(now - timedelta(hours=1)).build())
            .sign(self.authority.key, hashes.SHA256())
        )
        with self.bundle.open("ab") as file:
            file.write(revocations.public_bytes(Encoding.PEM))


def ask(
    ledger: Ledger,
    pair: Pair,
    certificate: tuple[Path, Path] | None,
    target: str = "/v1/events",
    body: Any = None,
    **headers: str,
) -> tuple[int, Any]:
    """One request with a client certificate; status and JSON of the answer."""
    context = pair.trusting()
    if certificate is not None:
        context.load_cert_chain(*certificate)
    parts = urlsplit(ledger.url)
    connection = http.client.HTTPSConnection(parts.netloc, context=context, timeout=WAIT_S)
    with closing(connection):
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json", **headers}
        connection.request("GET" if body is None else "POST", target, data, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    folder = tmp_path / "pair"
    folder.mkdir()
    return Pair(folder)


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    return Clients(tmp_path / "clients")


@pytest.fixture
def ledger(tmp_path: Path, pair: Pair, clients: Clients) -> Iterator[Ledger]:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    (directory / "principals.toml").write_text(PRINCIPALS)
    settings = msgspec.structs.replace(with_tls(pair), tls_client_ca=str(clients.bundle))
    with serving(directory, tokens, settings) as ledger:
        yield ledger


def test_a_certificate_may_do_what_principals_toml_says(
    ledger: Ledger, pair: Pair, clients: Clients
) -> None:
    billing, other = clients.issued["billing"], clients.issued["other"]
    paid = event(action="billing.paid", tenant="acme")
    status, answer = ask(ledger, pair, billing, body=paid)
    assert status == 200, answer
    assert answer["results"][0]["received"]["by"] == "cert:billing"
    status, answer = ask(ledger, pair, billing, body=event(action="user.login", tenant="acme"))
    assert "action-not-allowed" in json.dumps(answer)
    assert ask(ledger, pair, billing)[0] == 403
    # The second one has its name beside the subject.
    assert ask(ledger, pair, other)[0] == 200
    # Nobody needs a certificate, and a token counts alone.
    assert ask(ledger, pair, None)[1]["type"].endswith("#token-missing")
    admin = {"Authorization": f"Bearer {ledger.tokens['admin']}"}
    assert ask(ledger, pair, None, **admin)[0] == 200
    assert ask(ledger, pair, billing, **admin)[0] == 200
    for header in ("Bearer wrong", "Basic eDp5", "Bearer", ""):
        assert ask(ledger, pair, other, Authorization=header)[0] == 401, header


def test_a_certificate_of_another_authority_and_a_revoked_one_open_no_connection(
    tmp_path: Path, pair: Pair, clients: Clients
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    (directory / "principals.toml").write_text(PRINCIPALS)
    clients.revoke("billing")
    settings = msgspec.structs.replace(with_tls(pair), tls_client_ca=str(clients.bundle))
    with serving(directory, tokens, settings) as ledger:
        for certificate in (clients.stranger, clients.issued["billing"]):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(ledger, pair, certificate)
        assert ask(ledger, pair, clients.issued["other"])[0] == 200


class Kept:
    """A connection that is kept, with a client certificate."""

    def __init__(self, ledger: Ledger, pair: Pair, certificate: tuple[Path, Path]) -> None:
        context = pair.trusting()
        context.load_cert_chain(*certificate)
        parts = urlsplit(ledger.url)
        self.connection = http.client.HTTPSConnection(parts.netloc, context=context, timeout=WAIT_S)
        self.connection.auto_open = 0
        self.connection.connect()

    def close(self) -> None:
        """Close it on this side."""
        self.connection.close()

    def begin(self, target: str = "/v1/events") -> http.client.HTTPResponse:
        """Ask, and read no more than the head of the answer."""
        self.connection.request("GET", target)
        return self.connection.getresponse()

    def is_closed(self) -> bool:
        """Wait for the server to close the connection, and send nothing more."""
        assert self.connection.sock is not None
        with suppress(ConnectionError, ssl.SSLError):
            return self.connection.sock.recv(1) == b""
        return True


@pytest.mark.parametrize("change", ["revoked", "authority gone"])
def test_open_connections_end_when_the_authorities_of_clients_change(
    tmp_path: Path, pair: Pair, clients: Clients, change: str
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    (directory / "principals.toml").write_text(
        PRINCIPALS.replace('["read"]', '["read", "query"]') + 'tenant = "acme"\n'
    )
    settings = msgspec.structs.replace(with_tls(pair), tls_client_ca=str(clients.bundle))
    with serving_live(directory, tokens, settings) as (ledger, reload), ExitStack() as opened:
        other = clients.issued["other"]
        kept, streaming, plain = (
            opened.enter_context(closing(Kept(ledger, pair, other))) for _ in range(3)
        )
        answer = kept.begin()
        assert (answer.status, bool(answer.read())) == (200, True)
        stream = streaming.begin("/v1/events/stream")
        assert stream.status == 200

        reload()  # The same authorities: both connections stay.
        answer = kept.begin()
        assert (answer.status, bool(answer.read())) == (200, True)

        if change == "revoked":
            clients.revoke("other")
        else:
            clients.bundle.write_bytes(Authority(tmp_path / "clients").certificate.read_bytes())
        reload()
        assert kept.is_closed()
        assert plain.is_closed()  # It never asked for anything.
        with pytest.raises(http.client.IncompleteRead):
            stream.read()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(ledger, pair, other)
        assert ask(ledger, pair, None, "/v1/log")[0] == 200


ODD: dict[str, list[x509.ExtensionType]] = {
    "two of one kind": [x509.OCSPNoCheck(), x509.OCSPNoCheck()],
    # OpenSSL takes the name of X.400, which the parser that finds names does not know.
    "an unknown name": [
        x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes.fromhex("3004a3023000"))
    ],
    "an address of three bytes": [
        x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes.fromhex("30058703010203"))
    ],
    "no names": [
        x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes.fromhex("30038205"))
    ],
}
SHOWN = ("two of one kind", "an address of three bytes")
"""Those of which OpenSSL makes a connection."""


@pytest.mark.parametrize("kind", SHOWN)
def test_a_certificate_with_odd_extensions_is_nobody_and_no_fault_of_ours(
    ledger: Ledger, pair: Pair, clients: Clients, kind: str
) -> None:
    odd = clients.authority.issue("odd", ODD[kind])[:2]
    for body in (None, event(action="billing.paid", tenant="acme")):
        status, answer = ask(ledger, pair, odd, body=body)
        assert (status, answer["type"].partition("#")[2]) == (401, "token-unknown")
    assert ask(ledger, pair, odd, "/v1/log")[0] == 200


@pytest.mark.parametrize("kind", ODD)
def test_what_can_not_be_read_of_a_certificate_is_a_reason(clients: Clients, kind: str) -> None:
    odd = clients.authority.issue("odd", ODD[kind])[0]
    grants = {"x": CertificateGrant(san="DNS:odd", scopes=("read",))}
    found = Certificates(grants).find(ssl.PEM_cert_to_DER_cert(odd.read_text()))
    assert "can't be read" in str(found)


def test_a_certificate_that_no_entry_names_is_nobody(clients: Clients) -> None:
    der = ssl.PEM_cert_to_DER_cert(clients.issued["billing"][0].read_text())
    assert "CN=billing" in str(Certificates({}).find(der))
    grant = CertificateGrant(subject="CN=billing", san="DNS:elsewhere", scopes=("read",))
    for each in (grant, msgspec.structs.replace(grant, subject="CN=bill", san=None)):
        assert "no entry" in str(Certificates({"x": each}).find(der))
    assert "can't be read" in str(Certificates({"x": grant}).find(b"no certificate"))
    with pytest.raises(ValueError, match="a subject, a san, or both"):
        CertificateGrant(scopes=("read",))


def test_authorities_that_can_not_be_used_are_named(pair: Pair, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("hello")
    for path, error in ((empty, MalformedError), (tmp_path / "gone.pem", UnavailableError)):
        with pytest.raises(error, match=path.name):
            open_tls(msgspec.structs.replace(with_tls(pair), tls_client_ca=str(path)))
