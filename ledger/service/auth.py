"""Authentication: which token or certificate a request carries, and its scopes.

A token is looked up when a request begins, so a revoked one is refused from the next request on. It
is looked up again after a wait, for the body or for a turn, and when an answer with events is made:
no request that began before appends or reads much later. Open streams and exports look it up again
and again with `is_authorized`. A known
and an unknown token cost the same: one SHA-256 and one point read by the hash. No secret is
compared with another, so no comparison can leak one.

A bearer token that is not of this ledger may be one of an identity provider, and a request without
one may come over TLS with a client certificate (`ledger.service.identities`).

Source: RFC 6750.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from aiohttp import web

from ledger.service.http.problems import ProblemError
from ledger.service.identities.identities import Identities
from ledger.store.tokens import AccessStore, DamagedTokenError, TokenRecord, TokenScope
from ledger_client.runtime.sender_network import sender_network

_SCHEME: Final = "bearer "
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}
_INVALID: Final = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class Caller(NamedTuple):
    """To whom a request is counted: the token that it carries, or else its address."""

    name: str
    """The token's name, `revoked NAME`, `expired NAME`, `elsewhere NAME`, or `address …`."""
    token: TokenRecord | None
    """The token, if it is in use."""
    revoked: TokenRecord | None
    """The token, if it is revoked or expired."""
    elsewhere: TokenRecord | None = None
    """The token, if it may not be used from this address: who has it uses up nothing of it."""
    is_damaged: bool = False
    """Whether the record of the token is damaged."""
    fault: str = ""
    """Why a certificate, or a token of an identity provider, is not taken."""

    @property
    def token_name(self) -> str:
        """The name of the token in use, or an empty text."""
        return "" if self.token is None else self.token.name


_CALLER: Final = web.RequestKey("ledger.caller", Caller)
_IDENTITIES: Final = web.RequestKey("ledger.identities", Identities)
_SCOPES: Final = web.RequestKey("ledger.scopes", tuple)


async def identify_new(
    access: AccessStore,
    request: web.BaseRequest,
    identities: Identities,
    begin: Callable[[], Awaitable[None]],
) -> Caller:
    """The caller of a request that has just come; its principal may have to be looked up first.

    `begin` waits for the turn of the request's address. It comes before a signature is verified,
    which takes a millisecond or more, and before the answer to a caller without a token.
    """
    request[_IDENTITIES] = identities
    secret = _secret(request)
    if identities.must_verify(secret):
        await begin()
        await identities.prepare(secret)
        await begin()
    caller = identify(access, request)
    if caller.token is None:
        await begin()
    return caller


def identify(access: AccessStore, request: web.BaseRequest) -> Caller:
    """The caller of a request, whether it may do what it asks or not; kept for `authenticate`."""
    secret, fault = _secret(request), ""
    record, is_damaged = None, False
    try:
        record = access.lookup(secret) if secret else None
    except DamagedTokenError:
        is_damaged = True
    identities = request.get(_IDENTITIES)
    # Who sends a header means it: no certificate counts beside it.
    if record is None and identities and (secret or "Authorization" not in request.headers):
        found = identities.find(secret, request)
        record, fault = (None, found) if isinstance(found, str) else (found, "")
    if record is None:
        address = f"address {sender_network(request.remote or '')}"
        caller = Caller(address, None, None, is_damaged=is_damaged, fault=fault)
    elif record.revoked:
        caller = Caller(f"revoked {record.name}", None, record)
    elif not access.is_in_use(record):
        caller = Caller(f"expired {record.name}", None, record)
    elif record.networks and not _is_within(record.networks, request.remote):
        caller = Caller(f"elsewhere {record.name}", None, None, record)
    else:
        caller = Caller(record.name, record, None)
    request[_CALLER] = caller
    return caller


def _secret(request: web.BaseRequest) -> str:
    """The bearer token, or the empty text."""
    return request.headers.get("Authorization", "")[len(_SCHEME) :].strip(" ")


def caller_name(request: web.BaseRequest) -> str:
    """The name of the caller whom `identify` found, for turns and limits."""
    caller: Caller = request[_CALLER]
    return caller.name


def is_stranger(request: web.BaseRequest) -> bool:
    """Whether the caller whom `identify` found has no token that is in use."""
    caller: Caller = request[_CALLER]
    return caller.token is None


def authenticate(access: AccessStore, request: web.BaseRequest, *scopes: TokenScope) -> TokenRecord:
    """The token that a request carries, if it has one of the scopes.

    The token was looked up when the request began, by `identify`. Raises: ProblemError with 401 for
    a missing or unknown token, 403 without the scope, or from another network, 500 for a token
    whose record is damaged.
    """
    request[_SCOPES] = scopes
    return _authorize(request, scopes, request.get(_CALLER) or identify(access, request))


def authenticate_again(access: AccessStore, request: web.BaseRequest) -> None:
    """Check after a wait that a token which was authenticated is in use still.

    Does nothing for a request that needs no token. Raises: as `authenticate`.
    """
    scopes: tuple[TokenScope, ...] | None = request.get(_SCOPES)
    if scopes is not None:
        _authorize(request, scopes, identify(access, request))


def _authorize(
    request: web.BaseRequest, scopes: Sequence[TokenScope], caller: Caller
) -> TokenRecord:
    authorization = request.headers.get("Authorization")
    record, past = caller.token, caller.revoked
    if caller.fault:
        raise ProblemError("token-unknown", caller.fault, headers=_INVALID)
    if authorization is None and record is past is caller.elsewhere is None:
        raise ProblemError(
            "token-missing",
            "a token is needed: Authorization: Bearer …, or LEDGER_TOKEN, or --token-file",
            headers=_CHALLENGE,
        )
    if authorization is not None and authorization[: len(_SCHEME)].lower() != _SCHEME:
        raise ProblemError("token-unknown", "only bearer tokens are known", headers=_INVALID)
    if caller.elsewhere is not None:
        raise ProblemError("wrong-network", "the token may not be used from this address")
    if caller.is_damaged:
        text = "the record of this token is damaged: run ledger fsck, and make another token"
        raise ProblemError("damaged", text)
    if record is None:
        text = "this token is not in use: mistyped, revoked, or of another ledger"
        if past is not None and not past.revoked:
            text = f"this token expired at {past.expires}: its ledger's operator makes another"
        raise ProblemError("token-unknown", text, headers=_INVALID)
    if not any(map(record.may, scopes)):
        wanted = " or ".join(scopes)
        raise ProblemError("scope-missing", f"the token does not carry the scope {wanted}")
    return record


@lru_cache(maxsize=4096)
def _is_within(networks: tuple[str, ...], remote: str | None) -> bool:
    """Whether an address is in one of the networks. Without an address: no."""
    try:
        address = ip_address((remote or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in ip_network(network) for network in networks)


def is_authorized(access: AccessStore, request: web.BaseRequest, *scopes: TokenScope) -> bool:
    """Whether the token of a request is still in use and still has one of the scopes."""
    try:
        _authorize(request, scopes, identify(access, request))
    except ProblemError:
        return False
    return True
