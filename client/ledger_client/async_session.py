"""The state of a client from its first call to `close`: settings, connections, accepted heads."""

import ssl
from typing import Final, Self, TypeVar

from ledger_client.async_driver import AsyncDriver
from ledger_client.async_transport import AsyncTransport, run_blocking, sleep
from ledger_client.base_client import TIMEOUT_S, AnyPolicy, BaseClient, PathLike
from ledger_client.messages import Plan
from ledger_client.plans.append import Mask
from ledger_client.retry import Environment, RetryPolicy
from ledger_core.event.secrets import mask as mask_secrets
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.policy import VerifiedHead

T = TypeVar("T")


class AsyncSession:
    """Runs the plans of a client's calls, and keeps the heads that it accepted."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        policy: AnyPolicy | None = None,
        state: PathLike | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: RetryPolicy | None = None,
        tls: ssl.SSLContext | None = None,
        mask: Mask | None = mask_secrets,
        insecure: bool = False,
    ) -> None:
        """Read policy (its bytes, or the file at a path) and state file; open no connection.

        `timeout_s` bounds one attempt, `retry` the number of attempts and the time for all of them.
        Without `state`, each process accepts its first head by the policy alone. `mask` removes
        secrets from each event before it is sent. The default has the built-in rules,
        `parse_rules(text).mask` those of a file too; None sends events as they are. `insecure`
        sends the token over plain HTTP to another host, readable to everybody on the way.

        Raises: ValueError, MalformedError, VerificationError, OSError.
        """
        self._base: Final = BaseClient(
            url,
            token,
            policy=policy,
            state=state,
            timeout_s=timeout_s,
            mask=mask,
            insecure=insecure,
        )
        self._transport: Final = AsyncTransport(self._base.endpoint, tls=tls)
        self._retry: Final = retry or RetryPolicy()
        self._environment: Final = Environment()
        self._driver: Final = AsyncDriver(
            self._transport.send, sleep=sleep, retry=self._retry, environment=self._environment
        )

    @property
    def latest(self) -> VerifiedHead | None:
        """The largest head accepted so far; sends no request."""
        return self._base.latest

    async def close(self) -> None:
        """Write the state file and close the connections. Raises: OSError."""
        await self._transport.close()
        await run_blocking(self._base.save)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base.endpoint.address!r})"

    async def _run(self, plan: Plan[T]) -> T:
        try:
            result = await self._driver.run(plan)
        except VerificationError as error:
            saved = await run_blocking(self._base.with_evidence_saved, error)
            raise saved from error
        else:
            self._base.warn_of_older_head()
            return result
        finally:
            if self._base.is_save_due:
                await run_blocking(self._base.save_due)
