"""The principals beside tokens, as principals.toml names them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from ledger.service.http.problems import log_failure
from ledger.service.identities.certificates import Certificates, certificate_of, is_outdated
from ledger.service.identities.config import (
    FILE,
    Issuer,
    Principals,
    parse_principals,
    read_principals,
)
from ledger.service.identities.jwks import JwksCache
from ledger.service.identities.jwt_tokens import JwtTokens, RefusedTokenError, is_jwt
from ledger.store.tokens import TokenRecord
from ledger_core.tlog.errors import MalformedError, UnavailableError


class Identities:
    """Finds the principals of requests. Used on one event loop."""

    def __init__(self, principals: Principals) -> None:
        self._tasks: dict[Issuer, tuple[JwksCache, asyncio.Task[None] | None]] = {}
        self._is_running = False
        self.take(principals)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Fetch the keys of issuers while the block runs."""
        self._is_running = True
        self._start()
        try:
            yield
        finally:
            self._is_running = False
            self._stop(set(self._tasks))

    def must_verify(self, secret: str) -> bool:
        """Whether a bearer token may be an issuer's, and was not verified lately."""
        return (
            bool(self._principals.issuers)
            and is_jwt(secret)
            and self._tokens.find_kept(secret) is None
        )

    async def prepare(self, secret: str) -> None:
        """Wait a moment for the key of a bearer token. Precondition: it `must_verify`."""
        await self._tokens.prepare(secret)

    def find(self, secret: str, request: web.BaseRequest) -> TokenRecord | str | None:
        """The principal of a request, why there is none, or None when it does not show one.

        `secret`: the bearer token, which counts alone; the empty text without one.
        """
        if secret:
            if not (self._principals.issuers and is_jwt(secret)):
                return None
            try:
                return self._tokens.find(secret)
            except RefusedTokenError as error:
                return str(error)
        der = certificate_of(request.transport)
        if der is not None and is_outdated(request.transport):
            return "the authorities of client certificates have changed: connect again"
        return None if der is None else self._certificates.find(der)

    def take(self, principals: Principals) -> None:
        """Use these from now on."""
        self._principals = principals
        issuers = principals.issuers
        self._stop(set(self._tasks).difference(issuers.values()))
        for name, issuer in issuers.items():
            if issuer not in self._tasks:
                keys = JwksCache(
                    name,
                    issuer.jwks_url,
                    algorithms=issuer.algorithms,
                    refresh_s=issuer.refresh_s,
                )
                self._tasks[issuer] = keys, None
        keys_by_name = {name: self._tasks[issuer][0] for name, issuer in issuers.items()}
        self._tokens = JwtTokens(issuers, keys_by_name)
        self._certificates = Certificates(principals.certificates)
        self._start()

    def _start(self) -> None:
        if self._is_running:
            for issuer, (keys, task) in self._tasks.items():
                if task is None:
                    self._tasks[issuer] = keys, asyncio.create_task(_watched(keys))

    def _stop(self, issuers: set[Issuer]) -> None:
        for issuer in issuers:
            _, task = self._tasks.pop(issuer)
            if task is not None:
                task.cancel()


def read_usable_principals(directory: Path) -> Principals:
    """The principals of a folder. Raises: as `usable_principals`, OSError."""
    path = directory / FILE
    return usable_principals(read_principals(path), name=str(path))


def usable_principals(text: str, *, name: str = FILE) -> Principals:
    """The principals in the text of a file, which errors call `name`.

    Raises: MalformedError; UnavailableError when it names an issuer, and what verifies the tokens
    of one is not installed.
    """
    try:
        principals = parse_principals(text)
    except MalformedError as error:
        raise MalformedError(f"{name}: {error}") from None
    if principals.issuers:
        _check_jwt()
    return principals


async def _watched(keys: JwksCache) -> None:
    try:
        await keys.run()
    except Exception as error:  # noqa: BLE001 - a task's top
        log_failure("task_failed", error, task="issuer keys")


def _check_jwt() -> None:
    """Raises: UnavailableError saying what to install."""
    try:
        import jwt  # noqa: F401
    except ModuleNotFoundError:
        raise UnavailableError(
            "tokens of an issuer need the extra oidc: pip install 'witnessed-ledger[oidc]'"
        ) from None
