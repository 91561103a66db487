"""The public keys of an issuer (JWKS), fetched beside the requests and kept.

They are fetched at the start, at an interval, and when a token names a key that is not there, at
most each `ASK_AGAIN_S`; that request waits up to `KEY_WAIT_S`. An issuer that is away changes
nothing for `STALE_S`: then its keys are trusted no more, for it may have taken one back.

An answer has `BYTES_MAX` bytes and `KEYS_MAX` keys at most and `TIMEOUT_S` to come. Redirects are
not followed. Of each key only the public members are read, and a key that is too weak, not for
signatures, or of no pinned algorithm is left out.

Source: RFC 7517, RFC 7518, RFC 8037.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
import structlog

from ledger.log.witness_client import make_session
from ledger.runtime.network_errors import explain_network_error
from ledger.runtime.tasks import wait_set
from ledger_client.runtime.backoff import exponential_s
from ledger_core.tlog.errors import MalformedError, UnavailableError

TIMEOUT_S: Final = 5.0
BYTES_MAX: Final = 1 << 17
KEYS_MAX: Final = 64
KID_CHARS_MAX: Final = 256
RSA_BITS_MIN: Final = 2048
ASK_AGAIN_S: Final = 10.0
KEY_WAIT_S: Final = 2.0
RETRY_BASE_S: Final = 1.0
STALE_S: Final = 86_400.0

FAMILIES: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", "")),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""The key type and curve of each algorithm that can be pinned."""

_PUBLIC_MEMBERS: Final = ("kty", "crv", "n", "e", "x", "y")

_log = structlog.get_logger("ledger.service")


class Key(NamedTuple):
    """A public key, and the algorithms that it may be used with."""

    algorithms: frozenset[str]
    value: Any


class JwksCache:
    """The keys of one issuer. Used on one event loop; `run` is a task of its own."""

    def __init__(self, name: str, url: str, *, algorithms: Sequence[str], refresh_s: float) -> None:
        self.generation = 0
        """Another number after each fetch."""
        self._name: Final = name
        self._url: Final = url
        self._algorithms: Final = frozenset(algorithms)
        self._refresh_s: Final = refresh_s
        self._keys: Mapping[str, Key] = {}
        self._fetched_at_s = 0.0
        self._asked_at_s = 0.0
        self._is_fetching = False
        self._wanted = asyncio.Event()
        self._changed = asyncio.Condition()

    @property
    def is_usable(self) -> bool:
        """Whether the keys were fetched, and not too long ago."""
        return self.generation > 0 and time.monotonic() - self._fetched_at_s < STALE_S

    def find(self, kid: str | None) -> Key | None:
        """The key of this id; without an id the only key that there is."""
        if not self.is_usable:
            return None
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    async def wait_for(self, kid: str | None) -> None:
        """Fetch the keys again if this one is not there, and wait a moment for them."""
        now, before = time.monotonic(), self.generation
        if self.find(kid) is not None:
            return
        if not self._is_fetching:
            if self._asked_at_s and now - self._asked_at_s < ASK_AGAIN_S:
                return
            self._asked_at_s = now
            self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(KEY_WAIT_S), self._changed:
                await self._changed.wait_for(lambda: self.generation != before)

    async def run(self) -> None:
        """Keep the keys fresh until cancelled."""
        failures, said = 0, ""
        async with make_session(TIMEOUT_S) as session:
            while True:
                self._wanted.clear()
                self._is_fetching = True
                try:
                    self._keys = parse_keys(await _fetch(session, self._url), self._algorithms)
                except (UnavailableError, MalformedError) as error:
                    failures += 1
                    if str(error) != said:
                        _log.error("issuer_keys_not_fetched", issuer=self._name, reason=str(error))
                    said = str(error)
                else:
                    if failures or not self.generation:
                        _log.info("issuer_keys_fetched", issuer=self._name, keys=len(self._keys))
                    failures, said = 0, ""
                    self.generation += 1
                    self._fetched_at_s = time.monotonic()
                    async with self._changed:
                        self._changed.notify_all()
                finally:
                    self._is_fetching = False
                wait_s = self._refresh_s
                if failures:
                    wait_s = exponential_s(failures, base_s=RETRY_BASE_S, limit_s=wait_s)
                await wait_set(self._wanted, wait_s)


def parse_keys(data: bytes, algorithms: frozenset[str]) -> dict[str, Key]:
    """The usable keys of a set, by their ids; a key without one has the id ''.

    Raises: MalformedError when it is no set, has too many keys, or none that can be used.
    """
    try:
        keys = msgspec.json.decode(data, type=dict[str, Any])["keys"]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError, RecursionError):
        raise MalformedError("the answer is no JSON with keys") from None
    if not isinstance(keys, list) or len(keys) > KEYS_MAX:
        raise MalformedError(f"the answer has no list of at most {KEYS_MAX} keys")
    found: dict[str, Key] = {}
    for each in keys:
        kid = each.get("kid", "") if isinstance(each, dict) else None
        if isinstance(kid, str) and len(kid) <= KID_CHARS_MAX and kid not in found:
            key = _parse_key(each, algorithms)
            if key is not None:
                found[kid] = key
    if not found:
        raise MalformedError("the answer has no key of the algorithms in principals.toml")
    return found


def _parse_key(jwk: Mapping[str, Any], algorithms: frozenset[str]) -> Key | None:
    """A key that may verify signatures by some of these algorithms, or None."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from jwt.algorithms import get_default_algorithms
    from jwt.exceptions import InvalidKeyError

    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list):
        return None
    family = jwk.get("kty"), jwk.get("crv", "")
    fits = frozenset(each for each in algorithms if FAMILIES[each] == family)
    if (own := jwk.get("alg")) is not None:
        fits &= {own} if isinstance(own, str) else set()
    if not fits or "verify" not in operations:
        return None
    public = {name: jwk[name] for name in _PUBLIC_MEMBERS if name in jwk}
    try:
        value = get_default_algorithms()[min(fits)].from_jwk(public)
    except (InvalidKeyError, ValueError, TypeError):
        return None
    if isinstance(value, RSAPublicKey) and value.key_size < RSA_BITS_MIN:
        return None
    return Key(fits, value)


async def _fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    """The bytes at an address. Raises: UnavailableError, MalformedError."""
    try:
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status != HTTPStatus.OK:
                raise UnavailableError(f"answered {answer.status}")
            data = bytearray()
            async for piece in answer.content.iter_any():
                data += piece
                if len(data) > BYTES_MAX:
                    raise MalformedError(f"the answer has more than {BYTES_MAX} bytes")
            return bytes(data)
    except TimeoutError:
        raise UnavailableError(f"no answer in {TIMEOUT_S:g} s") from None
    except aiohttp.ClientConnectorError as error:
        raise UnavailableError(f"no connection: {explain_network_error(error)}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnavailableError(type(error).__name__) from error
