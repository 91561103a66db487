"""The rules by which a monitor judges a log. No I/O: plans in, verdicts out.

A `Monitor` is given the checkpoints that a log publishes, its entries, and the heads that witnesses
show.

1. A published head must meet the policy, quorum included.
2. Every head, from the log or a witness, must be of one tree with all heads accepted before
   (`TrustedLog`).
3. A published head is not smaller than the one before, unless the log proves that the larger tree
   begins with it. Then somebody on the way replayed an old head: a notice, and never fresh.
4. Every entry under the published head must be in the tree that the entries before it make
   (`tree_replay`). Without a token that may read, no entry is checked.
5. The head of a witness must bear the log's signature and that witness's own, and meet rule 2. This
   finds two people who are shown two trees. A log may be behind a witness for a moment: a log that
   can't prove a head which it signed has until `stale_after_s`.
6. The log must be fresh (`check_fresh`): cosignatures of a quorum not older than `stale_after_s`;
   where the policy has no quorum, a head larger than the one before. No request may stay unanswered
   for longer, not even the one whose answer would convict the log.

The plans are small, so their caller can save what was verified between two of them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import msgspec

from ledger_client.audit.tree_replay import ReplayState, TreeReplay
from ledger_client.errors import RejectedError
from ledger_client.messages import Plan, Request
from ledger_client.plans.heads import (
    CHECKPOINT_REQUEST,
    PROOF_REFUSED_STATUSES,
    fetch_consistency,
    show_head,
)
from ledger_client.responses import adding_evidence, check_status
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.policy import Policy, PolicyGroup, PolicyWitness, VerifiedHead
from ledger_core.tlog.tile import TILE_WIDTH
from ledger_core.tlog.trust import TrustedLog, fork_error

NOT_FOUND = 404


class StaleError(VerificationError):
    """No answer was false, but none was fresh: somebody may hold the log or the way to it back."""


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The state of a monitor that must survive a restart, beside the head accepted last."""

    published_size: int = 0
    """The size of the largest head that the log itself published."""
    grown_at_unix_s: int = 0
    """When that head was first seen."""
    rebuilt: ReplayState = ReplayState()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The published head, when it was last seen, and the number of entries checked under it."""

    head: VerifiedHead
    entries_checked: int | None
    """None without a token. Those that were pruned before are not among them."""
    seen_at_unix_s: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class WitnessSite:
    """An address at which a witness of the policy shows its heads, and its keys there."""

    url: str
    witnesses: tuple[PolicyWitness, ...]

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"the witness at {self.url}"


class Monitor:
    """The state of one monitored log. Mutable; its owner runs one plan at a time."""

    def __init__(
        self,
        policy: Policy,
        *,
        anchor: str | None,
        progress: Progress,
        is_reader: bool,
        is_polling: bool,
        stale_after_s: float,
    ) -> None:
        """`anchor` and `progress` are the saved `latest_note` and `progress` of a monitor.

        With `is_reader`, entries are checked. With `is_polling`, rounds continue: a refused proof
        is requested again, and the open bundle of a fast-growing log is left until it is full.
        `stale_after_s` 0 turns rule 6 off.

        Raises: ValueError for a policy of several origins, or a `progress` of no monitor;
        VerificationError, MalformedError for an anchor that the log did not sign.
        """
        self._policy: Final = policy
        self._trusted: Final = TrustedLog(policy, anchor=anchor)
        self._replay: Final = TreeReplay(progress.rebuilt)
        self._published_size = progress.published_size
        self._grown_at_unix_s = progress.grown_at_unix_s
        self._is_reader: Final = is_reader
        self._is_patient: Final = is_polling
        self._stale_after_s: Final = stale_after_s
        self._published: VerifiedHead | None = None
        self._seen_at_unix_s = 0
        self._entries_wanted = 0  # To be checked before the next published head.
        # By address: the first head of a witness that the log has not proven yet, and since when.
        self._unproven: dict[str, tuple[WitnessSite, VerifiedHead, float]] = {}

    @property
    def latest_note(self) -> str | None:
        """The largest head accepted so far: the anchor of the next monitor."""
        latest = self._trusted.latest
        return None if latest is None else latest.note

    @property
    def progress(self) -> Progress:
        """The progress from which the next monitor continues."""
        return Progress(
            published_size=self._published_size,
            grown_at_unix_s=self._grown_at_unix_s,
            rebuilt=self._replay.state,
        )

    @property
    def report(self) -> Report | None:
        """The present state; None before the first head."""
        if self._published is None:
            return None
        replay = self._replay
        checked = replay.entries_checked - replay.unseen if self._is_reader else None
        return Report(
            head=self._published, entries_checked=checked, seen_at_unix_s=self._seen_at_unix_s
        )

    @property
    def has_work(self) -> bool:
        """Whether entries are left for `check_entries`."""
        return self._replay.entries_checked < self._entries_wanted

    @property
    def advance(self) -> tuple[int, int]:
        """The number of entries checked, and that of the entries under the published head."""
        return self._replay.entries_checked, self._published_size

    def sites(self, prefixes: Mapping[str, str]) -> tuple[WitnessSite, ...]:
        """The addresses at which witnesses show heads. Keys at one address belong to one witness.

        `prefixes`: addresses by the name in the policy; without one it is the policy's, where heads
        are cosigned. Raises: ValueError for a name that the policy doesn't have.
        """
        names = {witness.name for witness in self._policy.witnesses}
        if unknown := sorted(prefixes.keys() - names):
            known = ", ".join(sorted(names)) or "none"
            raise ValueError(f"the policy has no witness {unknown[0]!r}; it has {known}")
        by_url: dict[str, list[PolicyWitness]] = {}
        for witness in self._policy.witnesses:
            url = prefixes.get(witness.name, witness.url)
            if url is not None:
                by_url.setdefault(url.rstrip("/"), []).append(witness)
        return tuple(WitnessSite(url, tuple(found)) for url, found in by_url.items())

    def fetch_head(self, now_unix_s: float) -> Plan[str | None]:
        """Fetch the published head and accept it (rules 1 to 3). Returns a notice, or None.

        Raises: VerificationError with the heads; MalformedError; UnavailableError.
        """
        note = yield from _fetch_note(CHECKPOINT_REQUEST)
        if note is None:
            raise UnavailableError("GET /checkpoint: status 404")
        with adding_evidence(lambda: self._latest_evidence() | {"offered.note": note}):
            head = self._policy.check(note)
        try:
            yield from self._accept(head)
        except RejectedError as error:
            latest = self.latest_note
            shrank = ""
            if head.checkpoint.tree_size < self._published_size and latest is not None:
                shrank = "it shrank, "
                yield from show_head(latest)
            raise self._unprovable(head, f"{shrank}{error}") from error
        notice = None
        size = head.checkpoint.tree_size
        if size < self._published_size:
            notice = f"it showed a head of size {size} again, after one of {self._published_size}"
        else:
            self._publish(head, now_unix_s)
        yield from self._judge_unproven(now_unix_s)
        return notice

    def check_entries(self) -> Plan[str | None]:
        """Check the entries of the next bundle (rule 4). Precondition: `has_work`.

        Returns a notice for entries that the log pruned before they were checked, or None.
        Raises: as `TreeReplay.check_next`, and UnavailableError.
        """
        if self._published is None:
            raise ValueError("there is no head yet to check entries against")
        return (yield from self._replay.check_next(self._published))

    def fetch_witness_head(self, site: WitnessSite) -> Plan[VerifiedHead | None]:
        """The head that a witness shows, for `check_witness_head`; None when it has cosigned none.

        Run this plan against the witness's address. Raises: as `fetch_head`.
        """
        origin = self._policy.logs[0].verifier.name
        target = f"/{sha256(origin.encode()).hexdigest()}/checkpoint"
        request = Request(target=target, accept="text/plain", answer_bytes_max=1 << 20)
        note = yield from _fetch_note(request)
        if note is None:
            return None
        with adding_evidence(lambda: {"witness.note": note}), _naming_site(site):
            return _policy_at(self._policy, site).check(note)

    def check_witness_head(
        self, site: WitnessSite, head: VerifiedHead, now_unix_s: float
    ) -> Plan[str | None]:
        """Check a witness's head against all others (rule 5). Returns a notice, or None.

        Raises: VerificationError with both heads; MalformedError; UnavailableError.
        """
        size = head.checkpoint.tree_size
        try:
            with _naming_site(site):
                yield from self._accept(head)
        except RejectedError as error:
            if size <= self._published_size or not self._is_patient:
                with _naming_site(site):
                    raise self._unprovable(head, error) from error
            self._unproven.setdefault(site.url, (site, head, now_unix_s))
            return f"it cosigned a head of size {size}, which the log can't prove yet: {error}"
        return None

    def stale_at_unix_s(
        self, now_unix_s: float, *, unanswered_since_unix_s: float | None = None
    ) -> float:
        """The time at which the log becomes stale if it gives no fresh answer before.

        `unanswered_since_unix_s` is when the log last answered every request, or when the first
        request was sent; None when every request was answered.
        """
        if not self._stale_after_s:
            return float("inf")
        times = [] if unanswered_since_unix_s is None else [unanswered_since_unix_s]
        # A monitor that has just started must not blame the log for the time before.
        if self._published is not None or not times:
            times.append(self._confirmed_at_unix_s(now_unix_s))
        return min(times) + self._stale_after_s

    def check_fresh(
        self, now_unix_s: float, *, unanswered_since_unix_s: float | None = None
    ) -> None:
        """Check that the log is fresh (rule 6). Raises: StaleError."""
        # A clock that was ahead when the log grew, and was set back, must not put this off.
        self._grown_at_unix_s = min(self._grown_at_unix_s, int(now_unix_s))
        stale_at = self.stale_at_unix_s(now_unix_s, unanswered_since_unix_s=unanswered_since_unix_s)
        if now_unix_s <= stale_at:
            return
        age = f"for {now_unix_s - stale_at + self._stale_after_s:.0f} s"
        head = self._published
        if head is None:
            said = f"no head of size {self._published_size} or more was seen {age}"
        elif self._confirmed_at_unix_s(now_unix_s) + self._stale_after_s > stale_at:
            said = f"the log has left a question unanswered {age}"
        elif self._policy.quorum is None:
            said = f"the log has not grown beyond {self._published_size} {age}"
        else:
            size = self._published_size
            said = f"no quorum of witnesses has stood by the head of size {size} {age}"
        raise StaleError(
            f"stale: {said}, want a new head within {self._stale_after_s:g} s",
            evidence={} if head is None else {"checkpoint.note": head.note.encode()},
        )

    def _confirmed_at_unix_s(self, now_unix_s: float) -> float:
        """The last confirmation of the published head: by a quorum, or without one by growth."""
        head = self._published
        if self._policy.quorum is None or head is None:
            return self._grown_at_unix_s
        # A clock far ahead, of a witness or of this host, must not make a head fresh for years.
        times = {
            name: time_unix_s
            for name, time_unix_s in head.cosignatures
            if time_unix_s <= now_unix_s + self._stale_after_s
        }
        for time_unix_s in sorted(times.values(), reverse=True):
            if self._policy.is_quorum({name for name, t in times.items() if t >= time_unix_s}):
                return time_unix_s
        return 0

    def _publish(self, head: VerifiedHead, now_unix_s: float) -> None:
        """Record a head as the one that the log publishes now."""
        size = head.checkpoint.tree_size
        if size > self._published_size or self._grown_at_unix_s == 0:
            self._grown_at_unix_s = int(now_unix_s)
        self._published, self._published_size = head, size
        self._seen_at_unix_s = int(now_unix_s)
        if self._is_reader:
            behind = size - self._replay.entries_checked
            # Source: c2sp.org/tlog-tiles, "Log entries": of a log that grows by bundles, the open
            # one is left to fill. When less than a bundle came since, it is fetched as it is.
            is_growing_fast = self._is_patient and behind > TILE_WIDTH
            self._entries_wanted = size - size % TILE_WIDTH if is_growing_fast else size

    def _accept(self, head: VerifiedHead) -> Plan[None]:
        """Accept a head, fetching the proof that it needs. Raises: RejectedError without one."""
        needed = self._trusted.needs(head)
        proof = None
        if needed is not None:
            try:
                proof = yield from fetch_consistency(*needed)
            except RejectedError as error:
                if error.problem.status in PROOF_REFUSED_STATUSES:
                    raise
                raise UnavailableError(str(error)) from error
        if not self._trusted.accept(head, proof):
            raise AssertionError("a head is accepted, or refused, by the proof that it needs")

    def _latest_evidence(self) -> dict[str, bytes]:
        """The accepted head: beside a head without its quorum it may show a fork."""
        note = self.latest_note
        return {} if note is None else {"accepted.note": note.encode()}

    def _judge_unproven(self, now_unix_s: float) -> Plan[None]:
        """Check again the witness heads that the log could not prove when they were seen."""
        for url, (site, head, noted_unix_s) in list(self._unproven.items()):
            # As in `check_fresh`: the clock may have been ahead.
            since_unix_s = min(noted_unix_s, now_unix_s)
            self._unproven[url] = site, head, since_unix_s
            is_late = 0 < self._stale_after_s < now_unix_s - since_unix_s
            if head.checkpoint.tree_size > self._published_size and not is_late:
                continue
            notice = yield from self.check_witness_head(site, head, now_unix_s)
            if notice is not None:
                with _naming_site(site):
                    raise self._unprovable(head, notice)
            del self._unproven[url]

    def _unprovable(self, head: VerifiedHead, why: object) -> VerificationError:
        """The error for a head that the log does not prove to be of the accepted tree."""
        latest = self._trusted.latest
        if latest is None:
            raise AssertionError("the first head needs no proof")
        return fork_error(
            f"the ledger has no proof between them ({why})", accepted=latest, offered=head
        )


@contextmanager
def _naming_site(site: WitnessSite) -> Iterator[None]:
    """Add to a VerificationError raised within which witness showed the head."""
    try:
        yield
    except VerificationError as error:
        raise VerificationError(
            f"a head that {site.name} shows: {error}", evidence=error.evidence
        ) from error


def _policy_at(policy: Policy, site: WitnessSite) -> Policy:
    """The policy for a witness's head: the log's signature and one of that witness."""
    names = tuple(witness.name for witness in site.witnesses)
    group = PolicyGroup(site.name, 1, names)
    return Policy(logs=policy.logs, witnesses=site.witnesses, groups=(group,), quorum=group.name)


def _fetch_note(request: Request) -> Plan[bytes | None]:
    """A checkpoint, or None for a 404. Any other refusal counts as no answer and is retried."""
    try:
        return check_status(request, (yield request))
    except RejectedError as error:
        if error.problem.status == NOT_FOUND:
            return None
        raise UnavailableError(f"no checkpoint: {error}") from error
