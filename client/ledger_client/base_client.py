"""The base of both clients, synchronous and asynchronous: settings, accepted heads, state file."""

import os
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Final

from ledger_client.errors import IncompleteWarning, OlderHeadWarning
from ledger_client.event_values import new_event_id
from ledger_client.fork_safe_masking import guarded, keyed_rules
from ledger_client.messages import parse_endpoint
from ledger_client.plans.append import Appender, Mask
from ledger_client.plans.heads import Heads
from ledger_client.results import Page
from ledger_client.runtime.clock import unix_us
from ledger_client.runtime.files import read_limited
from ledger_client.state_file import StateFile
from ledger_core.event.commitments import SALT_BYTES
from ledger_core.event.reader import Reader
from ledger_core.event.secrets import mask as mask_secrets
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, Policy, VerifiedHead, parse_policy
from ledger_core.tlog.trust import TrustedLog

PathLike = str | os.PathLike[str]
AnyPolicy = Policy | bytes | PathLike

TIMEOUT_S = 30.0

POLICY_HINT = (
    "Pass policy=, the file DIR/policy of the ledger, which its operator hands over: a key that the"
    " server itself names proves nothing. With verify=False nothing is checked."
)


class BaseClient:
    """Endpoint, accepted heads and state file of one client. Safe from many threads."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        policy: AnyPolicy | None,
        state: PathLike | None,
        timeout_s: float,
        mask: Mask | None,
        insecure: bool,
    ) -> None:
        """Reads the policy and the state file.

        Raises: ValueError, MalformedError, VerificationError, OSError.
        """
        self.endpoint: Final = parse_endpoint(
            url, token=token, timeout_s=timeout_s, insecure=insecure
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
        are_clean = None
        if mask is mask_secrets:  # The default argument: it has no key for the digests of ids.
            rules = keyed_rules(token)
            mask, are_clean = rules.mask, guarded(rules.are_clean)
        self.appender: Final = Appender(
            reader=Reader(new_event_id, unix_us),
            mask=None if mask is None else guarded(mask),
            are_clean=are_clean,
            make_salt=lambda: os.urandom(SALT_BYTES),
        )

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
        """Write the state file when it is due. Ignores a failure, which `save` will raise.

        A full disk here must not make an append look failed that is in the ledger.
        """
        if self.is_save_due:
            with suppress(OSError):
                self.save()

    def save(self) -> None:
        """Write the state file. Raises: OSError."""
        latest = self.latest
        if self._state is not None and latest is not None:
            self._state.save(latest.note)

    def warn_of_older_head(self) -> None:
        """Issue an OlderHeadWarning if the ledger has shown an older head."""
        message = None if self._heads is None else self._heads.take_older()
        if message is not None:
            warnings.warn(message, OlderHeadWarning, stacklevel=4)

    @staticmethod
    def warn_of_damage(page: Page) -> None:
        """Issue an IncompleteWarning if events may be missing on a page."""
        if page.damage:
            warnings.warn(f"INCOMPLETE: {page.damage}", IncompleteWarning, stacklevel=4)

    def with_evidence_saved(self, error: VerificationError) -> VerificationError:
        """The same error; with a state file its evidence is saved and its message names where."""
        if self._state is None or not error.evidence:
            return error
        try:
            folder = self._state.save_evidence(error.evidence)
        except OSError as failure:
            where = f"the evidence could not be saved: {failure.strerror}"
        else:
            where = f"evidence saved in {folder}" if folder else "too much evidence to save more"
        return VerificationError(f"{error}; {where}", evidence=error.evidence)

    def heads_for(self, *, verify: bool) -> Heads | None:
        """The heads to verify against; None without `verify`. Raises: ValueError."""
        return self.required_heads() if verify else None

    def required_heads(self) -> Heads:
        """The accepted heads. Raises: ValueError without a policy."""
        if self._heads is None:
            raise ValueError(f"verifying needs a policy. {POLICY_HINT}")
        return self._heads


def _load_policy(policy: AnyPolicy) -> Policy:
    if isinstance(policy, Policy):
        return policy
    try:
        return parse_policy(
            policy if isinstance(policy, bytes) else read_limited(Path(policy), POLICY_BYTES_MAX)
        )
    except OSError as error:
        error.add_note(POLICY_HINT)
        raise
