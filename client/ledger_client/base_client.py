"""Everything that the two clients share: all but the sending.

A `BaseClient` holds what one client knows (endpoint, policy, accepted heads, state file) and names
the plan for each call. The two clients only run the plans, so neither can be laxer than the other.
"""

import os
import secrets
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from ledger_client.fork_safe_masking import guarded
from ledger_client.ids import new_event_id
from ledger_client.messages import Plan, parse_endpoint
from ledger_client.plans.append import AnyEvent, Appender, Mask
from ledger_client.plans.erase import plan_erase
from ledger_client.plans.heads import Heads
from ledger_client.plans.read import BundleIterator, plan_walk, prove_inclusion, read_event
from ledger_client.plans.search import (
    Order,
    Search,
    around_path,
    plan_page,
    plan_seen,
    search_parameters,
    timeline_path,
)
from ledger_client.plans.stream import EventStream
from ledger_client.results import (
    Consistency,
    Entry,
    Erased,
    Inclusion,
    Page,
    Receipt,
    Rejected,
    Seen,
)
from ledger_client.retry import Environment, RetryPolicy, Steps, persist
from ledger_client.runtime.clock import unix_us
from ledger_client.state_file import StateFile
from ledger_core.event.commitments import SALT_BYTES
from ledger_core.event.reader import Reader
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.policy import Policy, VerifiedHead, parse_policy
from ledger_core.tlog.trust import TrustedLog

PathLike = str | os.PathLike[str]
AnyPolicy = Policy | bytes | PathLike

T = TypeVar("T")

TIMEOUT_S = 30.0

POLICY_HINT = (
    "Pass policy=, the file DIR/policy of the ledger, which its operator hands over: a server's own"
    " word for its key proves nothing. With verify=False nothing is checked."
)


def _make_salt() -> bytes:
    return os.urandom(SALT_BYTES)


class BaseClient:
    """One client's settings and knowledge. Safe from many threads."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        policy: AnyPolicy | None,
        state: PathLike | None,
        timeout_s: float,
        retry: RetryPolicy,
        mask: Mask | None,
    ) -> None:
        """Reads the policy and the state file.

        Raises: ValueError, MalformedError, VerificationError, OSError.
        """
        self.endpoint: Final = parse_endpoint(url, token=token, timeout_s=timeout_s)
        self._retry: Final = retry
        self._environment: Final = Environment(
            monotonic_s=time.monotonic, unix_s=time.time, draw=secrets.SystemRandom().random
        )
        self._heads: Heads | None = None
        self._state: StateFile | None = None
        if policy is not None:
            parsed = _load_policy(policy)
            anchor = None
            if state is not None:
                self._state = StateFile(state, policy=parsed, monotonic_s=time.monotonic)
                anchor = self._state.load()
            self._heads = Heads(TrustedLog(parsed, anchor=anchor))
        elif state is not None:
            raise ValueError(f"a state file needs a policy. {POLICY_HINT}")
        reader = Reader(new_event_id, unix_us)
        self._appender: Final = Appender(
            reader=reader,
            heads=self._heads,
            mask=None if mask is None else guarded(mask),
            make_salt=_make_salt,
        )

    def append(self, event: AnyEvent, *, verify: bool, wait_witnessed: bool) -> Plan[Receipt]:
        self._heads_for(verify=verify)
        return self._appender.append(event, verify=verify, wait_witnessed=wait_witnessed)

    def append_many(
        self, events: Iterable[AnyEvent], *, verify: bool, wait_witnessed: bool
    ) -> Plan[list[Receipt | Rejected]]:
        self._heads_for(verify=verify)
        return self._appender.append_many(events, verify=verify, wait_witnessed=wait_witnessed)

    def event(self, reference: int | str, *, verify: bool) -> Plan[Entry]:
        return read_event(reference, heads=self._heads_for(verify=verify))

    def erase(self, subject: str, *, reason: str) -> Plan[Erased]:
        return plan_erase(subject, reason=reason)

    def page(
        self,
        query: str,
        *,
        limit: int,
        cursor: str | None,
        order: Order,
        facets: Sequence[str],
        histogram: str | None,
        explain: bool,
        verify: bool,
    ) -> Plan[Page]:
        parameters = {
            "q": query,
            "limit": limit,
            "cursor": cursor,
            **search_parameters(order=order, facets=facets, histogram=histogram, explain=explain),
        }
        return plan_page("/v1/events", parameters, heads=self._heads_for(verify=verify))

    def search(self, query: str, *, order: Order, limit: int | None, verify: bool) -> Search:
        parameters = {"q": query, **search_parameters(order=order)}
        heads = self._heads_for(verify=verify)
        return Search("/v1/events", parameters, limit=limit, heads=heads)

    def around(
        self, reference: int | str, *, minutes: int, limit: int | None, verify: bool
    ) -> Search:
        parameters = {"minutes": minutes, **search_parameters(order="oldest")}
        heads = self._heads_for(verify=verify)
        return Search(around_path(reference), parameters, limit=limit, heads=heads)

    def timeline(self, actor: str, *, order: Order, limit: int | None, verify: bool) -> Search:
        heads = self._heads_for(verify=verify)
        parameters = search_parameters(order=order)
        return Search(timeline_path(actor), parameters, limit=limit, heads=heads)

    def seen(self, source: str, *, verify: bool) -> Plan[Seen]:
        return plan_seen(source, heads=self._heads_for(verify=verify))

    def tail(self, query: str, *, start: int | None, verify: bool) -> EventStream:
        return EventStream(
            query,
            start=start,
            heads=self._heads_for(verify=verify),
            retry=self._retry,
            environment=self._environment,
        )

    def walk(self, start: int, end: int | None, *, verify: bool) -> Plan[BundleIterator]:
        return plan_walk(start, end, heads=self._heads_for(verify=verify))

    def inclusion(
        self, index: int, *, tree_size: int | None, leaf_hash: Hash | None
    ) -> Plan[Inclusion]:
        heads = self._required_heads()
        return prove_inclusion(index, tree_size=tree_size, expected=leaf_hash, heads=heads)

    def consistency(self, old: bytes | str, new: bytes | str | None) -> Plan[Consistency]:
        return self._required_heads().consistency(old, new)

    def checkpoint(self) -> Plan[VerifiedHead]:
        return self._required_heads().checkpoint()

    def steps(self, plan: Plan[T]) -> Steps[T]:
        """The plan with its retries, for a client to run."""
        return persist(plan, retry=self._retry, environment=self._environment)

    @property
    def latest(self) -> VerifiedHead | None:
        """The largest head accepted so far."""
        return None if self._heads is None else self._heads.latest

    @property
    def is_save_due(self) -> bool:
        """Whether `save_due` has something to write."""
        latest = self.latest
        return self._state is not None and latest is not None and self._state.is_due(latest.note)

    def save_due(self) -> None:
        """Write the state file when it is time. A failure waits for `save`, which raises it.

        An append that is in the ledger must not look failed because a disk here is full.
        """
        if self.is_save_due:
            with suppress(OSError):
                self.save()

    def save(self) -> None:
        """Write the state file. Raises: OSError."""
        latest = self.latest
        if self._state is not None and latest is not None:
            self._state.save(latest.note)

    def with_evidence_saved(self, error: VerificationError) -> VerificationError:
        """The error to raise: where there is a state file it names the folder of the evidence."""
        if self._state is None or not error.evidence:
            return error
        try:
            folder = self._state.save_evidence(error.evidence)
        except OSError as failure:
            where = f"the evidence could not be saved: {failure.strerror}"
        else:
            where = f"evidence saved in {folder}" if folder else "too much evidence to save more"
        return VerificationError(f"{error}; {where}", evidence=error.evidence)

    def _heads_for(self, *, verify: bool) -> Heads | None:
        return self._required_heads() if verify else None

    def _required_heads(self) -> Heads:
        if self._heads is None:
            raise ValueError(f"verifying needs a policy. {POLICY_HINT}")
        return self._heads


def _load_policy(policy: AnyPolicy) -> Policy:
    if isinstance(policy, Policy):
        return policy
    return parse_policy(policy if isinstance(policy, bytes) else Path(policy).read_bytes())
