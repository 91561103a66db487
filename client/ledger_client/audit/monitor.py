"""What an auditor makes of a log, from afar: bytes in, verdicts out, and no I/O.

A `Monitor` is fed the checkpoints that a log publishes, its entries, and the heads that witnesses
show. Its rules:

1. A published head meets the policy, quorum included, or it is the end.
2. Every head, whoever showed it, is of one tree with all that were accepted before: `TrustedLog`.
3. A published head is not smaller than the one before, unless the log proves that the larger tree
   begins with it: then somebody on the way showed an old one again, which is said and never fresh.
4. Every entry under the published head is in the tree that the entries before it make:
   `rebuilding`. Without a token that may read, none is looked at.
5. The head of a witness bears the log's signature and that witness's own, and rule 2 holds for it
   as for any other: two people who are shown two trees are found out here. A log may be behind a
   witness for a moment. If it can't prove a head that it signed, it has until `stale_after_s`.
6. There is fresh word of the log (`check_fresh`): cosignatures of a quorum that are not older than
   `stale_after_s`; where the policy asks for no quorum, a head that is larger than the one before.
   And the log leaves no question unanswered for longer, be it only the one that would convict it.

The plans are small, so that their owner can keep what was verified between two of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import msgspec

from ledger_client.audit.tree_replay import ReplayState, TreeReplay
from ledger_client.errors import RejectedError
from ledger_client.messages import Plan, Request
from ledger_client.plans.heads import CHECKPOINT_REQUEST, PROOF_REFUSED_STATUSES, fetch_consistency
from ledger_client.responses import adding_evidence, check_status
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.policy import Policy, PolicyGroup, PolicyWitness, VerifiedHead
from ledger_core.tlog.tile import TILE_WIDTH
from ledger_core.tlog.trust import TrustedLog, fork_error

NOT_FOUND = 404


class StaleError(VerificationError):
    """Nothing was false, and nothing was fresh: the log, or the way to it, may be held back."""


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a monitor must know after a restart, beside the head that it accepted last."""

    published_size: int = 0
    """The size of the largest head that the log itself has shown."""
    grown_at_unix_s: int = 0
    """When that was first seen."""
    rebuilt: ReplayState = ReplayState()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The published head, when it was last shown, and how many of the entries were checked."""

    head: VerifiedHead
    entries_checked: int | None
    """None without a token."""
    seen_at_unix_s: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class WitnessSite:
    """One address at which a witness of the policy shows its heads, and its keys there."""

    url: str
    witnesses: tuple[PolicyWitness, ...]

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"the witness at {self.url}"


class Monitor:
    """What is known of one log. Mutable; its owner runs one plan at a time."""

    def __init__(
        self,
        policy: Policy,
        *,
        anchor: str | None,
        progress: Progress,
        is_reader: bool,
        is_patient: bool,
        stale_after_s: float,
    ) -> None:
        """`anchor` and `progress` are what was kept: see `latest_note` and `progress`.

        With `is_reader` entries are checked. One who `is_patient` comes back soon: a proof that is
        refused is asked for again, and of a log that grows fast the open bundle is left until it is
        full. `stale_after_s` 0 asks for no fresh word.

        Raises: ValueError for a policy of several origins, or a `progress` that no monitor kept;
        VerificationError, MalformedError for an anchor that the log did not sign.
        """
        self._policy: Final = policy
        self._trusted: Final = TrustedLog(policy, anchor=anchor)
        self._rebuilding: Final = TreeReplay(progress.rebuilt)
        self._published_size = progress.published_size
        self._grown_at_unix_s = progress.grown_at_unix_s
        self._is_reader: Final = is_reader
        self._is_patient: Final = is_patient
        self._stale_after_s: Final = stale_after_s
        self._published: VerifiedHead | None = None
        self._seen_at_unix_s = 0
        self._entries_wanted = 0  # Those of the published head that are checked before the next.
        # By address: the first head of a witness that the log has yet to prove, and since when.
        self._unproven: dict[str, tuple[WitnessSite, VerifiedHead, float]] = {}

    @property
    def latest_note(self) -> str | None:
        """The largest head accepted so far, as the next monitor's anchor."""
        latest = self._trusted.latest
        return None if latest is None else latest.note

    @property
    def progress(self) -> Progress:
        """What the next monitor goes on from."""
        return Progress(
            published_size=self._published_size,
            grown_at_unix_s=self._grown_at_unix_s,
            rebuilt=self._rebuilding.kept,
        )

    @property
    def report(self) -> Report | None:
        """What is known now; None before the first head."""
        if self._published is None:
            return None
        checked = self._rebuilding.entries_checked if self._is_reader else None
        return Report(
            head=self._published, entries_checked=checked, seen_at_unix_s=self._seen_at_unix_s
        )

    @property
    def has_work(self) -> bool:
        """Whether `check_entries` has something to check."""
        return self._rebuilding.entries_checked < self._entries_wanted

    @property
    def sites(self) -> tuple[WitnessSite, ...]:
        """Where the policy says that witnesses are. Keys at one address are one witness's."""
        by_url: dict[str, list[PolicyWitness]] = {}
        for witness in self._policy.witnesses:
            if witness.url is not None:
                by_url.setdefault(witness.url.rstrip("/"), []).append(witness)
        return tuple(WitnessSite(url, tuple(found)) for url, found in by_url.items())

    def follow(self, now_unix_s: float) -> Plan[str | None]:
        """Fetch the published head and accept it (rules 1 to 3); what is odd about it, or None.

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
            shrank = "it shrank, " if head.checkpoint.tree_size < self._published_size else ""
            raise self._unprovable(head, f"{shrank}{error}") from error
        remark = None
        size = head.checkpoint.tree_size
        if size < self._published_size:
            remark = f"it showed a head of size {size} again, after one of {self._published_size}"
        else:
            self._publish(head, now_unix_s)
        yield from self._judge_unproven(now_unix_s)
        return remark

    def check_entries(self) -> Plan[None]:
        """Check the entries of the next bundle (rule 4). Precondition: `has_work`.

        Raises: as `TreeReplay.check_next`, and UnavailableError.
        """
        if self._published is None:
            raise ValueError("there is no head yet to check entries against")
        yield from self._rebuilding.check_next(self._published)

    def fetch_from(self, site: WitnessSite) -> Plan[VerifiedHead | None]:
        """The head that a witness shows, for `compare`; None when it has cosigned none.

        To be run against the witness's address. Raises: as `follow`.
        """
        origin = self._policy.logs[0].verifier.name
        target = f"/{sha256(origin.encode()).hexdigest()}/checkpoint"
        request = Request(target=target, accept="text/plain", answer_bytes_max=1 << 20)
        note = yield from _fetch_note(request)
        if note is None:
            return None
        with adding_evidence(lambda: {"witness.note": note}), _told_by(site):
            return _policy_at(self._policy, site).check(note)

    def compare(self, site: WitnessSite, head: VerifiedHead, now_unix_s: float) -> Plan[str | None]:
        """Hold a witness's head against all others (rule 5); what is odd about it, or None.

        Raises: VerificationError with both heads; MalformedError; UnavailableError.
        """
        size = head.checkpoint.tree_size
        try:
            with _told_by(site):
                yield from self._accept(head)
        except RejectedError as error:
            if size <= self._published_size or not self._is_patient:
                with _told_by(site):
                    raise self._unprovable(head, error) from error
            self._unproven.setdefault(site.url, (site, head, now_unix_s))
            return f"it cosigned a head of size {size}, which the log can't prove yet: {error}"
        return None

    def stale_at_unix_s(
        self, now_unix_s: float, *, unanswered_since_unix_s: float | None = None
    ) -> float:
        """When the last fresh word becomes stale, unless there is a later one.

        `unanswered_since_unix_s`: when the log last answered all that it was asked, or one began to
        ask; None when it has.
        """
        if not self._stale_after_s:
            return float("inf")
        times = [] if unanswered_since_unix_s is None else [unanswered_since_unix_s]
        # Who has just begun to ask does not blame the log for what they did not see.
        if self._published is not None or not times:
            times.append(self._vouched_at_unix_s(now_unix_s))
        return min(times) + self._stale_after_s

    def check_fresh(
        self, now_unix_s: float, *, unanswered_since_unix_s: float | None = None
    ) -> None:
        """Hold the last word of the log against the clock (rule 6). Raises: StaleError."""
        stale_at = self.stale_at_unix_s(now_unix_s, unanswered_since_unix_s=unanswered_since_unix_s)
        if now_unix_s <= stale_at:
            return
        age = f"for {now_unix_s - stale_at + self._stale_after_s:.0f} s"
        head = self._published
        if head is None:
            said = f"no head of size {self._published_size} or more was seen {age}"
        elif self._vouched_at_unix_s(now_unix_s) + self._stale_after_s > stale_at:
            said = f"the log has left a question unanswered {age}"
        elif self._policy.quorum is None:
            said = f"the log has not grown beyond {self._published_size} {age}"
        else:
            size = self._published_size
            said = f"no quorum of witnesses has stood by the head of size {size} {age}"
        raise StaleError(
            f"stale: {said}, want fresh word within {self._stale_after_s:g} s",
            evidence={} if head is None else {"checkpoint.note": head.note.encode()},
        )

    def _vouched_at_unix_s(self, now_unix_s: float) -> float:
        """When the published head was last vouched for."""
        head = self._published
        if self._policy.quorum is None or head is None:
            return self._grown_at_unix_s
        # A clock that is far ahead, the witness's or ours, must not make a head fresh for years.
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
        """Take a head for the one that the log shows now."""
        size = head.checkpoint.tree_size
        if size > self._published_size or self._grown_at_unix_s == 0:
            self._grown_at_unix_s = int(now_unix_s)
        self._published, self._published_size = head, size
        self._seen_at_unix_s = int(now_unix_s)
        if self._is_reader:
            behind = size - self._rebuilding.entries_checked
            # Source: c2sp.org/tlog-tiles, "Log entries": of a log that grows by bundles, the open
            # one is left to fill. When less than a bundle came since, it is fetched as it is.
            is_growing_fast = self._is_patient and behind > TILE_WIDTH
            self._entries_wanted = size - size % TILE_WIDTH if is_growing_fast else size

    def _accept(self, head: VerifiedHead) -> Plan[None]:
        """Accept a head by the proof that this takes. Raises: RejectedError when there is none."""
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
        """A head without its quorum may be one that witnesses refused: a fork, by these two."""
        note = self.latest_note
        return {} if note is None else {"accepted.note": note.encode()}

    def _judge_unproven(self, now_unix_s: float) -> Plan[None]:
        """Come back to the heads of witnesses that the log could not prove at the time."""
        for url, (site, head, since_unix_s) in list(self._unproven.items()):
            is_late = 0 < self._stale_after_s < now_unix_s - since_unix_s
            if head.checkpoint.tree_size > self._published_size and not is_late:
                continue
            remark = yield from self.compare(site, head, now_unix_s)
            if remark is not None:
                with _told_by(site):
                    raise self._unprovable(head, remark)
            del self._unproven[url]

    def _unprovable(self, head: VerifiedHead, why: object) -> VerificationError:
        """The error for a head that the log can't, or won't, prove to be of the accepted tree."""
        latest = self._trusted.latest
        if latest is None:
            raise AssertionError("the first head needs no proof")
        return fork_error(
            f"the ledger has no proof between them ({why})", accepted=latest, offered=head
        )


@contextmanager
def _told_by(site: WitnessSite) -> Iterator[None]:
    """Let a VerificationError raised within say who showed the head that it is about."""
    try:
        yield
    except VerificationError as error:
        raise VerificationError(
            f"a head that {site.name} shows: {error}", evidence=error.evidence
        ) from error


def _policy_at(policy: Policy, site: WitnessSite) -> Policy:
    """The policy for what a witness shows: the log's signature, and one of its own."""
    names = tuple(witness.name for witness in site.witnesses)
    group = PolicyGroup(site.name, 1, names)
    return Policy(logs=policy.logs, witnesses=site.witnesses, groups=(group,), quorum=group.name)


def _fetch_note(request: Request) -> Plan[bytes | None]:
    """A checkpoint, None where there is none. Another refusal is no answer: it is asked again."""
    try:
        return check_status(request, (yield request))
    except RejectedError as error:
        if error.problem.status == NOT_FOUND:
            return None
        raise UnavailableError(f"no checkpoint: {error}") from error
