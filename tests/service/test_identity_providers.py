"""People log in by an identity provider whose keys rotate; forged tokens are refused."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from ledger.service.http.in_flight import STRANGERS
from ledger.service.identities import jwks
from ledger.service.identities.config import Principals
from ledger.service.identities.identities import read_usable_principals
from ledger.service.identities.jwks import BYTES_MAX, KEYS_MAX, parse_keys
from ledger.service.token_admin import make_token
from ledger_core.tlog.errors import MalformedError
from tests.service.serving import Ledger, event, make_ledger, serving
from tests.waiting import until

NAME, AUDIENCE = "https://login.example.com", "ledger"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OKP_KEY = ed25519.Ed25519PrivateKey.generate()
WEAK_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
PINNED = frozenset({"RS256", "ES256", "EdDSA"})


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """The public key as a member of a set."""
    algorithm: Any = {
        rsa.RSAPrivateKey: RSAAlgorithm,
        ec.EllipticCurvePrivateKey: ECAlgorithm,
        ed25519.Ed25519PrivateKey: OKPAlgorithm,
    }[next(kind for kind in KINDS if isinstance(key, kind))]
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **more}


KINDS: tuple[Any, ...] = (
    rsa.RSAPrivateKey,
    ec.EllipticCurvePrivateKey,
    ed25519.Ed25519PrivateKey,
)


class Provider:
    """A local issuer: what it answers, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [jwk(RSA_KEY, "r1")]
        self.body: bytes | None = None
        self.status = 200
        self.asked = 0
        self.hold = threading.Event()
        self.hold.set()

    @contextmanager
    def serving(self) -> Iterator[str]:
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                provider.hold.wait(60)
                body = provider.body or json.dumps({"keys": provider.keys}).encode()
                self.send_response(provider.status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/jwks"
        finally:
            self.hold.set()
            server.shutdown()
            server.server_close()


def claims(**changed: Any) -> dict[str, Any]:
    """Claims that are right, but for those that are changed; None leaves one out."""
    now = int(time.time())
    made = {
        "iss": NAME,
        "aud": AUDIENCE,
        "sub": "s1",
        "email": "ada@example.com",
        "iat": now,
        "exp": now + 600,
        "groups": ["staff", "responders"],
        "org": "acme",
        **changed,
    }
    return {name: value for name, value in made.items() if value is not None}


def token(key: Any = RSA_KEY, kid: str | None = "r1", alg: str = "RS256", **changed: Any) -> str:
    header = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**changed), key, algorithm=alg, headers=header)


PRINCIPALS = """
[issuers.corp]
issuer = "https://login.example.com"
audience = "ledger"
jwks_url = "{url}"
algorithms = ["RS256", "ES256", "EdDSA"]
name_claim = "email"
leeway_s = 5

[[issuers.corp.rules]]
claim = "groups"
value = "responders"
scopes = ["read"]

[[issuers.corp.rules]]
claim = "realm.roles"
value = "writer"
scopes = ["append"]
tenant_claim = "org"
actions = ["billing.*"]

[[issuers.corp.rules]]
claim = "scope"
value = "audit"
scopes = ["query"]
networks = ["203.0.113.0/24"]
"""


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def ledger(tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr(jwks, "ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(jwks, "KEY_WAIT_S", 30.0)
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with provider.serving() as url:
        (directory / "principals.toml").write_text(PRINCIPALS.format(url=url))
        with serving(directory, tokens) as ledger:
            yield ledger


def fault(ledger: Ledger, secret: str, slug: str = "token-unknown") -> str:
    answer = ledger.ask("/v1/events", token=secret)
    assert (answer.status in (401, 403), answer.slug) == (True, slug)
    assert secret not in answer.text
    return str(answer.json()["detail"])


def test_signatures_are_verified_at_the_turns_of_an_address(
    ledger: Ledger, asked: list[tuple[str, str]]
) -> None:
    """One of a key that is known, and one that is forged, cost a millisecond or more."""
    turn, secret = ("127.0.0.1", STRANGERS), token()
    own = ("oidc:corp:ada@example.com", "")
    assert ledger.ask("/v1/events", token=secret).status == 200
    assert asked == [turn, turn, own]
    asked.clear()
    assert ledger.ask("/v1/events", token=secret).status == 200
    assert asked == [own]
    for forged in (secret[:-8] + "AAAAAAAA", token(kid="other")):
        asked.clear()
        assert ledger.ask("/v1/events", token=forged).status == 401
        assert asked == [turn] * 3


def test_claims_grant_scopes_tenant_actions_and_networks(ledger: Ledger) -> None:
    assert ledger.ask("/v1/events", token=token()).status == 200
    assert ledger.append(event(), token=token()).slug == "scope-missing"

    writer = token(groups=[], realm={"roles": ["writer"]})
    stored = ledger.append(event(action="billing.paid", tenant="acme"), token=writer)
    assert stored.json()["results"][0]["received"]["by"] == "oidc:corp:ada@example.com"
    for wrong, slug in (
        ({"action": "billing.paid", "tenant": "other"}, "wrong-tenant"),
        ({"action": "user.login", "tenant": "acme"}, "action-not-allowed"),
    ):
        refused = ledger.append(event(**wrong), token=writer)
        assert slug in refused.text, refused.text
    assert "claim org" in fault(ledger, token(groups=[], realm={"roles": ["writer"]}, org=None))
    assert fault(ledger, token(groups=None, scope="a audit"), "wrong-network")
    assert "no rule" in fault(ledger, token(groups=["staff"]))
    # A token of this ledger still works, and none can have such a name.
    assert ledger.ask("/v1/events").status == 200
    with pytest.raises(ValueError, match="'oidc:'"):
        make_token(ledger.directory, name="oidc:corp:a", scopes=("read",), tenant=None)


def unsigned() -> str:
    return jwt.encode(claims(), "", algorithm="none")


def hmac_with_public_key() -> str:
    """Signed with the public key as the secret of an HMAC, which PyJWT itself would not make."""
    public = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signer = jwt.get_algorithm_by_name("HS256")
    head, body = (
        jwt.utils.base64url_encode(json.dumps(part).encode())
        for part in ({"alg": "HS256", "kid": "r1"}, claims())
    )
    signature = signer.sign(head + b"." + body, public)
    return b".".join((head, body, jwt.utils.base64url_encode(signature))).decode()


def with_header(**header: Any) -> str:
    return jwt.encode(claims(), RSA_KEY, algorithm="RS256", headers={"kid": "r1", **header})


FORGED: dict[str, tuple[Callable[[], str], str]] = {
    "alg none": (unsigned, "not allowed"),
    "HS256 with the public key": (hmac_with_public_key, "not allowed"),
    "an algorithm that is not pinned": (lambda: token(alg="RS512"), "not allowed"),
    "another key": (
        lambda: token(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        "InvalidSignatureError",
    ),
    "a key of another kind": (lambda: token(EC_KEY, alg="ES256"), "no such key"),
    "an unknown key": (lambda: token(kid="r9"), "no such key"),
    "a path as the key's id": (lambda: token(kid="../../dev/null"), "no such key"),
    "an id that is long": (lambda: token(kid="k" * 300), "no short text"),
    "keys elsewhere": (lambda: with_header(kid="x", jku="http://127.0.0.1:1/"), "no such key"),
    "an extension": (lambda: with_header(crit=["b64"], b64=True), "not known|no JWT"),
    "another issuer": (lambda: token(iss=NAME + "/"), "does not name"),
    "no issuer": (lambda: token(iss=None), "does not name"),
    "another audience": (lambda: token(aud="other"), "another audience"),
    "no audience": (lambda: token(aud=None), "no claim aud"),
    "expired": (lambda: token(exp=int(time.time()) - 60), "log in again"),
    "without an end": (lambda: token(exp=None), "no claim exp"),
    "of a time to come": (lambda: token(nbf=int(time.time()) + 600), "ImmatureSignature"),
    "without a name": (lambda: token(email=None), "claim email"),
    "a name with a line break": (lambda: token(email="a\nb"), "claim email"),
    "a name that looks like another": (lambda: token(email="jo\u3164"), "claim email"),
    "a name that is no text": (lambda: token(email=["a"]), "claim email"),
    "no JSON": (lambda: "a.b.c", "no JWT"),
}


def test_forged_and_misused_tokens_are_refused_and_say_why(ledger: Ledger) -> None:
    until(lambda: ledger.ask("/v1/events", token=token()).status == 200, "it has the key")
    for name, (make, reason) in FORGED.items():
        said = fault(ledger, make())
        assert any(part in said for part in reason.split("|")), f"{name}: {said}"
    # Some issuers mean forever, or all that a number can hold.
    for end in (10**11, 2**63 - 1, 1e300, 10**400):
        assert ledger.ask("/v1/events", token=token(exp=end)).status == 200, end
    # The clocks may differ by the leeway.
    assert ledger.ask("/v1/events", token=token(exp=int(time.time()) - 1)).status == 200


def test_keys_rotate_and_one_that_is_gone_is_trusted_no_more(
    ledger: Ledger, provider: Provider
) -> None:
    first, second = token(), token(EC_KEY, "e1", "ES256")
    assert ledger.ask("/v1/events", token=first).status == 200
    provider.keys.append(jwk(EC_KEY, "e1"))
    assert ledger.ask("/v1/events", token=second).status == 200
    provider.keys = [jwk(EC_KEY, "e1"), jwk(OKP_KEY, "o1")]
    assert ledger.ask("/v1/events", token=token(OKP_KEY, "o1", "EdDSA")).status == 200
    # It was verified before, and is not any more.
    assert "no such key" in fault(ledger, first)
    assert ledger.ask("/v1/events", token=second).status == 200


def test_an_issuer_that_fails_keeps_its_keys_and_costs_no_other_request(
    ledger: Ledger, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ledger.ask("/v1/events", token=token()).status == 200
    monkeypatch.setattr(jwks, "KEY_WAIT_S", 0.05)
    for body, status in (
        (b"x" * (BYTES_MAX + 1), 200),
        (b"[]", 200),
        (b"", 503),
        (b"", 302),
        (json.dumps({"keys": [jwk(RSA_KEY, str(n)) for n in range(KEYS_MAX + 1)]}).encode(), 200),
    ):
        before, provider.body, provider.status = provider.asked, body, status
        assert "no such key" in fault(ledger, token(kid="new"))
        until(lambda: provider.asked > before, "it was asked")  # noqa: B023
        assert ledger.ask("/v1/events", token=token()).status == 200
    # A slow one keeps nobody waiting but who needs the key, and is asked once.
    provider.hold.clear()
    before = provider.asked
    assert "no such key" in fault(ledger, token(kid="new"))
    until(lambda: provider.asked == before + 1, "it was asked")
    assert "no such key" in fault(ledger, token(kid="newer"))
    assert ledger.ask("/v1/events", token=token()).status == 200
    assert ledger.ask("/v1/events").status == 200
    assert provider.asked == before + 1


def test_without_keys_the_token_may_be_right_and_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "KEY_WAIT_S", 0.05)
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    url = "http://127.0.0.1:1/jwks"
    (directory / "principals.toml").write_text(PRINCIPALS.format(url=url))
    with serving(directory, tokens) as ledger:
        assert "try again later" in fault(ledger, token())


def test_only_keys_that_may_verify_are_taken_from_a_set() -> None:
    def taken(*keys: object) -> set[str]:
        return set(parse_keys(json.dumps({"keys": [*keys, jwk(EC_KEY, "ok")]}).encode(), PINNED))

    secret = {"kty": "oct", "k": "AAAA", "kid": "secret"}
    unfit: list[object] = [
        jwk(RSA_KEY, "enc", use="enc"),
        jwk(RSA_KEY, "ops", key_ops=["sign"]),
        jwk(RSA_KEY, "alg", alg="RS512"),
        jwk(RSA_KEY, "odd", alg=1, key_ops="verify"),
        jwk(ec.generate_private_key(ec.SECP384R1()), "curve"),
        jwk(WEAK_KEY, "weak"),
        {**jwk(RSA_KEY, "cut"), "n": ""},
        {**jwk(RSA_KEY, "kid"), "kid": 1},
        *(secret, {}, None, [], "key"),
    ]
    assert taken(*unfit) == {"ok"}
    assert taken(jwk(RSA_KEY, "")) == {"ok", ""}
    private = {**json.loads(RSAAlgorithm.to_jwk(RSA_KEY)), "key_ops": ["verify"]}
    (key,) = parse_keys(json.dumps({"keys": [private]}).encode(), PINNED).values()
    assert isinstance(key.value, rsa.RSAPublicKey)
    for data in (b"", b"{}", b'{"keys": {}}', b'{"keys": []}', b"[" * 10_000, b"\xff"):
        with pytest.raises(MalformedError):
            parse_keys(data, PINNED)


def test_a_file_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "principals.toml"
    assert read_usable_principals(tmp_path) == Principals()
    good = PRINCIPALS.format(url="https://login.example.com/jwks")
    path.write_text(good)
    assert list(read_usable_principals(tmp_path).issuers) == ["corp"]
    for old, new in (
        ('"RS256", ', '"HS256", '),
        ('"RS256", ', '"none", '),
        ("https://login.example.com/jwks", "http://login.example.com/jwks"),
        ("https://login.example.com/jwks", "file:///etc/passwd"),
        ('audience = "ledger"\n', ""),
        ('"203.0.113.0/24"', '"everywhere"'),
        ('"billing.*"', '"*"'),
        ('value = "audit"\n', ""),
        ('tenant_claim = "org"', 'tenant_claim = "org"\ntenant = "acme"'),
        ("issuers.corp", 'issuers."Corp x"'),
        ("leeway_s = 5", "leeway_s = 3600"),
        ("leeway_s", "leeway"),
        ('["read"]', '["root"]'),
        ("[issuers", "[[issuers"),
    ):
        assert old in good
        path.write_text(good.replace(old, new))
        with pytest.raises(MalformedError, match=r"principals\.toml"):
            read_usable_principals(tmp_path)
