"""Follows a log: the clock, the sockets and the disk around a `Monitor`.

A round fetches the log's head, checks entries under it, asks the witnesses, saves what was verified
and checks that the log is fresh. The next round begins after `interval_s`; at once when more than a
bundle of entries is still unchecked; after a growing wait when the log did not answer. Problems on
the way are `Notice`s. An untrue answer, or a stale log, ends the loop with an error.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from ledger_client.audit.monitor import Monitor, Report, WitnessSite
from ledger_client.audit.monitor_dir import MonitorDir
from ledger_client.driver import Driver
from ledger_client.messages import Plan, Request, Response, parse_endpoint
from ledger_client.retry import Environment, RetryPolicy
from ledger_client.runtime.backoff import exponential_s, spread
from ledger_client.transport import Sleep, Transport
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import Policy
from ledger_core.tlog.tile import TILE_WIDTH

T = TypeVar("T")

INTERVAL_S = 10.0
STALE_AFTER_S = 600.0
TIMEOUT_S = 30.0

BUNDLES_PER_ROUND_MAX = 256
"""65,536 entries; then the heads are fetched again, however many entries are left."""

ROUND_MAX_S = 60.0
"""The same bound in time, for entries that come slowly."""

BUNDLES_PER_SAVE = 16
"""After a kill at most 4,096 entries are fetched again."""

ADVANCE_EVERY_S = 5.0
"""While entries are checked, an `Advance` comes this often."""

BACKOFF_MAX_S = 60.0
RETRY: Final = RetryPolicy(attempts_max=3, total_s=10.0)
"""For failures of a few seconds, which give no notice. Longer ones wait for the next round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a monitor's loop. `stale_after_s` 0 turns the alarm for a stale log off."""

    interval_s: float = INTERVAL_S
    stale_after_s: float = STALE_AFTER_S
    is_once: bool = False
    asks_witnesses: bool = False
    prefixes: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S
    insecure: bool = False
    """Sends the token over plain HTTP to another host, readable to everybody on the way."""

    def __post_init__(self) -> None:
        """Raises: ValueError."""
        if not (self.interval_s > 0 and self.stale_after_s >= 0):
            raise ValueError("the interval must be positive, and stale-after not negative")


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for people about the log or a witness; it proves nothing."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Advance:
    """How far the check of the entries under a head has come."""

    entries_checked: int
    tree_size: int


@dataclass(frozen=True, slots=True)
class MonitorEnvironment:
    """The clocks of a monitor, and how it waits."""

    clocks: Environment = field(default_factory=Environment)
    sleep: Sleep = time.sleep


class MonitorLoop:
    """Follows one log. Iterate `follow` once; `close` ends the connections."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        policy: Policy,
        folder: MonitorDir,
        settings: Settings,
        environment: MonitorEnvironment | None = None,
    ) -> None:
        """Read the folder; open no connection yet. Entries are checked when there is a token.

        Raises: ValueError for an invalid address of the log or a witness, for a policy of
        several logs and for the folder of another log; MalformedError, VerificationError, OSError.
        """
        self._settings: Final = settings
        self._environment: Final = environment or MonitorEnvironment()
        self._folder: Final = folder
        anchor, progress = folder.load()
        self._monitor: Final = Monitor(
            policy,
            anchor=anchor,
            progress=progress,
            is_reader=token is not None,
            is_polling=not settings.is_once,
            stale_after_s=settings.stale_after_s,
        )
        self._log: Final = self._peer("the log", url, token=token)
        self._sites: Final[list[tuple[WitnessSite, _Peer]]] = []
        sites = self._monitor.sites(settings.prefixes) if settings.asks_witnesses else ()
        for site in sites:
            try:
                peer = self._peer(site.name, site.url, token=None)
            except ValueError as error:
                raise ValueError(f"{site.name}: {error}") from error
            self._sites.append((site, peer))
        if settings.asks_witnesses and not self._sites:
            raise ValueError("the policy names no witness with an address to ask")
        # When the log last answered every request; at first, when this loop began.
        self._answered_at_unix_s = self._now()
        self._last_answer: Response | None = None
        self._last_report: Report | None = None

    def follow(self) -> Iterator[Report | Notice | Advance]:
        """Yields reports that differ from the one before, notices, and advances, until an error.

        Ends after one round with `is_once`. Raises: VerificationError, its kind StaleError and
        MalformedError, with the evidence saved; RejectedError for a refused token; OSError; with
        `is_once` also UnavailableError.
        """
        try:
            while True:
                yield from self._round()
                if self._settings.is_once:
                    return
                self._environment.sleep(self._wait_s())
        except (VerificationError, MalformedError) as error:
            raise self._with_evidence_saved(error) from error
        finally:
            # A full disk must not hide a verdict. What is not saved is fetched again.
            with suppress(OSError):
                self._save()

    def close(self) -> None:
        """Close the connections."""
        for peer in (self._log, *(peer for _, peer in self._sites)):
            peer.transport.close()

    def _round(self) -> Iterator[Report | Notice | Advance]:
        # A clock that was ahead and was set back must not put the alarm off.
        self._answered_at_unix_s = min(self._answered_at_unix_s, self._now())
        try:
            yield from self._ask_log()
            for site, peer in self._sites:
                yield from self._ask_witness(site, peer)
        except UnavailableError as error:
            if self._settings.is_once:
                raise
            self._back_off(self._log, error)
            yield Notice(self._log.name, str(error))
        else:
            self._log.failures = 0
            self._answered_at_unix_s = self._now()
        self._save()
        report = self._monitor.report
        if report is not None and report != self._last_report:
            self._last_report = report
            yield report
        self._monitor.check_fresh(self._now(), unanswered_since_unix_s=self._unanswered_since)

    def _ask_log(self) -> Iterator[Notice | Advance]:
        notice = self._run(self._log, self._monitor.fetch_head(self._now()))
        if notice is not None:
            yield Notice(self._log.name, notice)
        bundles = 0
        started_s = advanced_at_s = self._environment.clocks.monotonic_s()
        while self._monitor.has_work:
            now_s = self._environment.clocks.monotonic_s()
            is_long = bundles >= BUNDLES_PER_ROUND_MAX or now_s - started_s > ROUND_MAX_S
            if is_long and not self._settings.is_once:
                return
            if now_s - advanced_at_s >= ADVANCE_EVERY_S:
                advanced_at_s = now_s
                yield Advance(*self._monitor.advance)
            pruned = self._run(self._log, self._monitor.check_entries())
            if pruned is not None:
                yield Notice(self._log.name, pruned)
            bundles += 1
            if bundles % BUNDLES_PER_SAVE == 0:
                self._save()

    def _ask_witness(self, site: WitnessSite, peer: "_Peer") -> Iterator[Notice]:
        """Check the head that a witness shows. Raises: UnavailableError for the log."""
        if peer.failures and self._steady_s() < peer.resumes_at_s:
            return
        try:
            head = self._run(peer, self._monitor.fetch_witness_head(site))
        except UnavailableError as error:
            self._back_off(peer, error)
            notice = str(error)
        else:
            peer.failures = 0
            notice = (
                "it serves no head of this log here: it has cosigned none, or shows its heads at "
                "another address (--witness-prefix)"
            )
            if head is not None:
                notice = (
                    self._run(self._log, self._monitor.check_witness_head(site, head, self._now()))
                    or ""
                )
        if notice != peer.last_notice:
            peer.last_notice = notice
            yield Notice(site.name, notice or "it answers again")

    def _run(self, peer: "_Peer", plan: Plan[T]) -> T:
        """Run a plan against one peer. Raises: what the plan raises."""
        try:
            return peer.driver.run(plan)
        except MalformedError as error:
            raise MalformedError(f"{peer.name}: {error}") from error

    def _peer(self, name: str, url: str, *, token: str | None) -> "_Peer":
        """The log or a witness at an address. Raises: ValueError for an invalid address."""
        endpoint = parse_endpoint(
            url,
            token=token,
            timeout_s=self._settings.timeout_s,
            insecure=self._settings.insecure,
        )
        transport = Transport(endpoint)
        driver = Driver(
            lambda request: self._send(transport, request),
            sleep=self._environment.sleep,
            retry=RETRY,
            environment=self._environment.clocks,
        )
        return _Peer(name, transport, driver)

    def _send(self, transport: Transport, request: Request) -> Response:
        self._last_answer = None
        try:
            self._last_answer = transport.send(request)
        except VerificationError as error:
            # A certificate that isn't trusted: this is not the peer that was asked.
            raise UnavailableError(str(error)) from error
        return self._last_answer

    def _back_off(self, peer: "_Peer", error: UnavailableError) -> None:
        """Wait longer after each failure, and as long as Retry-After says, up to BACKOFF_MAX_S."""
        interval_s = self._settings.interval_s
        peer.failures += 1
        limit_s = max(interval_s, BACKOFF_MAX_S)
        wait_s = exponential_s(peer.failures, base_s=interval_s, limit_s=limit_s)
        wait_s = spread(wait_s, self._environment.clocks.draw())
        wait_s = max(wait_s, min(error.retry_after_s or 0.0, BACKOFF_MAX_S))
        peer.resumes_at_s = self._steady_s() + wait_s

    def _wait_s(self) -> float:
        """The wait until the next round."""
        now = self._now()
        if self._log.failures:
            # Not beyond the moment at which the log becomes stale.
            stale_at = self._monitor.stale_at_unix_s(
                now, unanswered_since_unix_s=self._unanswered_since
            )
            wait_s = self._log.resumes_at_s - self._steady_s()
            return max(0.0, min(wait_s, stale_at + 1 - now))
        report = self._monitor.report
        if report is not None and report.entries_checked is not None:
            behind = report.head.checkpoint.tree_size - report.entries_checked
            if behind > TILE_WIDTH:
                return 0.0
        return self._settings.interval_s

    def _now(self) -> float:
        return self._environment.clocks.unix_s()

    def _steady_s(self) -> float:
        return self._environment.clocks.monotonic_s()

    @property
    def _unanswered_since(self) -> float | None:
        return self._answered_at_unix_s if self._log.failures else None

    def _save(self) -> None:
        note = self._monitor.latest_note
        if note is not None:
            self._folder.save(note, self._monitor.progress)

    def _with_evidence_saved(
        self, error: VerificationError | MalformedError
    ) -> VerificationError | MalformedError:
        """The same error, with the place of its evidence in the message."""
        if isinstance(error, VerificationError):
            evidence = dict(error.evidence)
        else:
            evidence = {"answer.bin": b"" if self._last_answer is None else self._last_answer.body}
        try:
            folder = self._folder.save_evidence({"verdict.txt": f"{error}\n".encode(), **evidence})
        except OSError as failure:
            where = f"the evidence could not be saved: {failure.strerror}"
        else:
            where = f"evidence saved in {folder}" if folder else "too much evidence to save more"
        if isinstance(error, VerificationError):
            return type(error)(f"{error}; {where}", evidence=error.evidence)
        return MalformedError(f"{error}; {where}")


@dataclass(slots=True)
class _Peer:
    """The log or a witness: how it is asked, and its failures in a row."""

    name: str
    transport: Transport
    driver: Driver
    failures: int = 0
    resumes_at_s: float = 0.0
    last_notice: str = ""
