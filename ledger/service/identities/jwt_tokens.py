"""Verifies a token of an issuer (a JWT), and finds the principal that it stands for.

In order, and nothing of a token is believed before its signature:

1. `iss` chooses the issuer, by equality; `alg` must be one that principals.toml pins for it. So
   neither `none` nor an HMAC with a public key is ever tried.
2. `kid` is looked up among the keys that were fetched from `jwks_url`. What the token says of keys
   elsewhere (`jku`, `x5u`, `jwk`) is not read, and with `crit` it is refused.
3. The signature; `iss` and `aud`; `exp`, which must be there; `nbf` and `iat`, if they are there.
   Times have the leeway.
4. The name claim is the name in the log, `oidc:ISSUER:NAME`; the first rule that fits grants.

The limit of a header bounds the token. A verified one is kept by its hash until it ends or the keys
change, so that a stream that is checked again and again costs no signature each time.

Source: RFC 7519, RFC 8725.
"""

import hashlib
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ledger.service.identities.config import ClaimGrant, Issuer
from ledger.service.identities.jwks import KID_CHARS_MAX, JwksCache
from ledger.store.tokens import NAME_LENGTH_MAX, TokenRecord
from ledger_core.event.times import UNIX_US_MAX, format_time
from ledger_core.tlog.text import is_visible

PREFIX: Final = "oidc:"
CACHED_MAX: Final = 4096
DOTS: Final = 2


class Claimed(NamedTuple):
    """What a token says of itself before anything is verified."""

    issuer: str
    algorithm: str
    kid: str | None


class _Kept(NamedTuple):
    record: TokenRecord
    ends_unix_s: int
    generation: int
    issuer: str


class RefusedTokenError(Exception):
    """A token is not taken; the text says why, and has nothing of it but what it may repeat."""


def is_jwt(secret: str) -> bool:
    """Whether a bearer token has the form of a JWT."""
    return secret.count(".") == DOTS


class JwtTokens:
    """Verifies tokens of all issuers. Used on one event loop."""

    def __init__(self, issuers: Mapping[str, Issuer], keys: Mapping[str, JwksCache]) -> None:
        """Issuers and their keys, by the names that principals.toml gives them."""
        self._issuers: Final = {each.issuer: (name, each) for name, each in issuers.items()}
        self._keys: Final = keys
        self._kept: dict[bytes, _Kept] = {}

    async def prepare(self, secret: str) -> None:
        """Wait a moment for the key of a token if it is not there."""
        try:
            claimed = self._claimed(secret)
        except RefusedTokenError:
            return
        await self._keys[self._issuers[claimed.issuer][0]].wait_for(claimed.kid)

    def find(self, secret: str) -> TokenRecord:
        """The principal of a token. Raises: RefusedTokenError."""
        kept = self.find_kept(secret)
        if kept is not None:
            return kept
        found = self._verify(secret)
        if len(self._kept) >= CACHED_MAX:
            self._kept.clear()
        self._kept[_digest(secret)] = found
        return found.record

    def find_kept(self, secret: str) -> TokenRecord | None:
        """The principal of a token that was verified before, and need not be again."""
        kept = self._kept.get(_digest(secret))
        if kept is None or time.time() >= kept.ends_unix_s:
            return None
        keys = self._keys[kept.issuer]
        is_current = keys.is_usable and keys.generation == kept.generation
        return kept.record if is_current else None

    def _claimed(self, secret: str) -> Claimed:
        import jwt

        try:
            header = jwt.get_unverified_header(secret)
            claims = jwt.decode(secret, options={"verify_signature": False})
        except jwt.MissingRequiredClaimError as error:
            raise RefusedTokenError(f"the token has no claim {error.claim}") from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise RefusedTokenError("the token is no JWT") from None
        issuer, algorithm, kid = claims.get("iss"), header.get("alg"), header.get("kid")
        if not isinstance(issuer, str) or issuer not in self._issuers:
            raise RefusedTokenError("the token is of an issuer that principals.toml does not name")
        if algorithm not in self._issuers[issuer][1].algorithms:
            raise RefusedTokenError("the token is signed by an algorithm that is not allowed")
        if kid is not None and not (isinstance(kid, str) and len(kid) <= KID_CHARS_MAX):
            raise RefusedTokenError("the id of the token's key is no short text")
        if "crit" in header:
            raise RefusedTokenError("the token has an extension that is not known")
        return Claimed(issuer, algorithm, kid)

    def _verify(self, secret: str) -> _Kept:
        import jwt

        claimed = self._claimed(secret)
        name, issuer = self._issuers[claimed.issuer]
        keys = self._keys[name]
        key = keys.find(claimed.kid)
        if key is None and not keys.is_usable:
            raise RefusedTokenError("the issuer's keys could not be fetched: try again later")
        if key is None or claimed.algorithm not in key.algorithms:
            raise RefusedTokenError("the issuer has no such key for this algorithm")
        try:
            claims = jwt.decode(
                secret,
                key.value,
                algorithms=[claimed.algorithm],
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=issuer.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise RefusedTokenError("the token has expired: log in again") from None
        except jwt.InvalidAudienceError:
            raise RefusedTokenError("the token is for another audience") from None
        except jwt.MissingRequiredClaimError as error:
            raise RefusedTokenError(f"the token has no claim {error.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            # The class alone: a text may repeat what the token says.
            raise RefusedTokenError(f"the token is not valid: {type(error).__name__}") from None
        # Of one that means forever, which may be any number, the last time that there is.
        ends_unix_s = min(int(claims["exp"]) + issuer.leeway_s, UNIX_US_MAX // 10**6)
        return _Kept(
            _record(name, issuer, claims, ends_unix_s),
            ends_unix_s=ends_unix_s,
            generation=keys.generation,
            issuer=name,
        )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _record(name: str, issuer: Issuer, claims: Mapping[str, Any], ends_unix_s: int) -> TokenRecord:
    """The principal of verified claims. Raises: RefusedTokenError."""
    who = claims.get(issuer.name_claim)
    full = f"{PREFIX}{name}:{who}"
    if not _is_name(who) or len(full) > NAME_LENGTH_MAX:
        raise RefusedTokenError(f"the token has no usable claim {issuer.name_claim}")
    rule = next((rule for rule in issuer.rules if _fits(rule, claims)), None)
    if rule is None:
        raise RefusedTokenError("no rule of principals.toml fits the claims of the token")
    tenant = rule.tenant
    if rule.tenant_claim is not None:
        tenant = _claim(claims, rule.tenant_claim)
        # None would stand for every tenant.
        if not _is_name(tenant) or len(tenant) > NAME_LENGTH_MAX:
            raise RefusedTokenError(f"the token has no usable claim {rule.tenant_claim}")
    return TokenRecord(
        name=full,
        scopes=rule.scopes,
        created="",
        tenant=tenant,
        expires=format_time(ends_unix_s * 10**6),
        networks=rule.networks,
        actions=rule.actions,
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and is_visible(value) and value == value.strip()


def _fits(rule: ClaimGrant, claims: Mapping[str, Any]) -> bool:
    if rule.claim is None:
        return True
    found = _claim(claims, rule.claim)
    # The claim `scope` is one text with spaces: RFC 8693, section 4.2.
    values = found.split(" ") if rule.claim == "scope" and isinstance(found, str) else found
    return values == rule.value or (isinstance(values, list) and rule.value in values)


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by a path of names with dots between them."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found
