"""fsck of a ledger's folder: the log, and every other part against it.

    log        as `ledger.store.fsck`
    access     each record against its checksum, and the tokens in use against the token events
    private    each slot and value, and the erased subjects against the erasure events
    keys       the signing keys against the policy and the log
    files      settings, rules, private fields, hold, marker, evidence; files that are gone

All parts are checked, and each problem is one line. Memory grows with the subjects of erasable
values (16 bytes each), the tokens and the erasures, not with the log.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from ledger.log.hold import is_missing, read_hold, read_own_head
from ledger.object_storage.open_log import open_log
from ledger.runtime.keys import read_secret_key
from ledger.service.data_dir import DirectoryPaths, read_promotion, read_signers
from ledger.service.identities.config import parse_principals
from ledger.service.private_fields import parse_fields
from ledger.service.recovery_journal import check_finished
from ledger.service.settings import read_settings
from ledger.service.start_record import FIXED_FILES, RELOADED_FILES, changed_files, missing_files
from ledger.store.environment import DATA_FILE, LmdbError
from ledger.store.erasable_values import KEY_BYTES, event_key
from ledger.store.fsck import Checked, check_store
from ledger.store.log import LogStore
from ledger.store.pages import check_pages
from ledger.store.private_fsck import NEVER, check_private
from ledger.store.released import Release
from ledger.store.token_events import (
    TOKEN_ACTION,
    TokenEvent,
    pruned_token_events,
    read_token_event,
    released_token_events,
    token_problems,
)
from ledger.store.tokens import AccessStore
from ledger_client.runtime.files import read_limited, read_utf8
from ledger_core.event.commitments import find_commitments
from ledger_core.event.secrets import parse_rules
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import SIZE_MAX
from ledger_core.tlog.note import NOTE_BYTES_MAX
from ledger_core.tlog.policy import POLICY_BYTES_MAX, Policy, parse_policy

ERASED_ACTION: Final = b'"action":"ledger.private.erased"'
COMMITMENT: Final = b"commitment"

Progress = Callable[[int, int], None]

_EXPECTED = (
    VerificationError,
    MalformedError,
    UnavailableError,
    OSError,
    ValueError,
    msgspec.MsgspecError,
    LmdbError,
)


class Problem(NamedTuple):
    """One thing that is wrong, and the part of the ledger that it is in."""

    part: str
    problem: str


@dataclass(slots=True)
class Findings:
    """The result of fsck. `log` is None when the log did not pass."""

    log: Checked | None = None
    release: Release | None = None
    tokens: int = 0
    values: int = 0
    problems: list[Problem] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Turn an error of the block into a problem of a part."""
        try:
            yield
        except _EXPECTED as error:
            self.problems.append(Problem(name, f"{error}" or type(error).__name__))

    def add(self, name: str, problems: Iterator[str] | list[str]) -> None:
        self.problems += [Problem(name, each) for each in problems]


class _Visitor:
    """The results of the pass over the log that the other parts need."""

    def __init__(self, slots: int) -> None:
        self.token_events: list[TokenEvent] = []
        self.own_from = 0
        self.erased: dict[bytes, int] = {}
        """The hash of each erased subject, and the end of the entries whose values are gone."""
        self.first_use = array("Q", [NEVER]) * slots
        """For each slot the first entry with a value under it."""
        self.slot_of: Callable[[bytes], int | None] = lambda _key: None

    def visit(self, first: int, leaves: Sequence[bytes]) -> None:
        """Read the leaves of a bundle that have anything of these; most bundles have nothing."""
        text = b"\n".join(leaves)
        if TOKEN_ACTION in text or ERASED_ACTION in text or COMMITMENT in text:
            for leaf_index, leaf in enumerate(leaves, first):
                self._visit(leaf_index, leaf)

    def _visit(self, leaf_index: int, leaf: bytes) -> None:
        is_own = TOKEN_ACTION in leaf and leaf_index >= self.own_from
        if is_own and (event := read_token_event(leaf)) is not None:
            self.token_events.append(event)
        if ERASED_ACTION in leaf:
            decoded = msgspec.json.decode(leaf)["event"]
            if decoded["action"] == "ledger.private.erased":
                subject = decoded["targets"][0]["id"].encode()
                # Version 0.1 said nothing of values that came until the event was logged.
                end = min(decoded.get("context", {}).get("tree_size", leaf_index), leaf_index)
                digest = hashlib.sha256(subject).digest()
                self.erased[digest] = max(self.erased.get(digest, 0), end)
        if COMMITMENT in leaf:
            event = msgspec.json.decode(leaf)["event"]
            key = event_key(event["id"], event.get("tenant"))
            for commitment in find_commitments(event):
                slot = self.slot_of(commitment.hash.encode() + key)
                if slot is not None and slot < len(self.first_use):
                    self.first_use[slot] = min(self.first_use[slot], leaf_index)


def check_directory(
    paths: DirectoryPaths,
    *,
    progress: Progress = lambda _done, _total: None,
    is_strict: bool = False,
    reads_archive: bool = False,
) -> Findings:
    """Check all parts of a ledger but its index. Raises nothing that damage can cause.

    `reads_archive`: read released entries from their archive and check them too.
    """
    findings = Findings()
    policy: Policy | None = None
    with findings.part("policy"):
        policy = parse_policy(read_limited(paths.policy, POLICY_BYTES_MAX))
    check_files(paths, findings)
    with findings.part("private"), check_private(paths.private) as private:
        visitor = _Visitor(private.slots)
        with findings.part("promoted.json"):
            visitor.own_from = own_from(paths)
        visitor.slot_of = private.slot_of
        with findings.part("log"), closing(open_log(paths.log, directory=paths.root)) as log:
            check_heads_and_keys(paths, policy, log.origin(), findings)
            check_marker(paths, policy, log, findings)
            visitor.token_events += [
                event for index, event in pruned_token_events(log) if index >= visitor.own_from
            ]
            if not reads_archive:  # Else they are visited.
                visitor.token_events += [
                    event
                    for index, event in released_token_events(log)
                    if index >= visitor.own_from
                ]
            findings.release = log.release()
            findings.log = check_store(
                log,
                log_keys=[each.verifier for each in policy.logs] if policy else (),
                progress=progress,
                visit=visitor.visit,
                is_strict=is_strict,
                reads_archive=reads_archive,
            )
        if findings.log is not None:
            with findings.part("access"):
                _check_access(paths, visitor.token_events, findings)
            key = None
            if paths.private_key.exists():
                with findings.part("private.key"):
                    key = read_secret_key(paths.private_key, key_bytes=KEY_BYTES)
            if paths.digest_key.exists():
                with findings.part("digest.key"):
                    read_secret_key(paths.digest_key, key_bytes=KEY_BYTES)
            findings.add("private", private.problems(visitor.erased, visitor.first_use, key))
            findings.values = private.values
    return findings


def own_from(paths: DirectoryPaths) -> int:
    """The index from which on the events about tokens are of this folder's tokens.

    Those before are of the log that a mirror holds, or that a promoted one held.
    """
    if paths.mirror.exists():
        return SIZE_MAX
    promotion = read_promotion(paths)
    return 0 if promotion is None else promotion.tree_size


def check_files(paths: DirectoryPaths, findings: Findings) -> None:
    """Check the settings and rules, and that no small file is gone or other than at the start."""
    readers: tuple[tuple[str, Callable[[str], object]], ...] = (
        ("ledger.toml", lambda text: read_settings(toml=text)),
        ("secrets.toml", parse_rules),
        ("principals.toml", parse_principals),
        ("private.toml", parse_fields),
    )
    for name, read in readers:
        if (paths.root / name).exists():
            with findings.part(name):
                read(read_utf8(paths.root / name))
    with findings.part("started.json"):
        findings.add(
            "files",
            [
                f"{name} was there when the ledger was last started, and is gone"
                for name in missing_files(paths)
            ],
        )
        findings.add(
            "files",
            [
                f"{name} is not as it was when the ledger was last started: put back a copy"
                + (
                    ""
                    if name in FIXED_FILES
                    else "; if a person edited it, "
                    + ("reload the service" if name in RELOADED_FILES else "start it again")
                )
                for name in changed_files(paths)
            ],
        )
    with findings.part("hold.json"):
        read_hold(paths.hold)
    with findings.part("recovering.json"):
        check_finished(paths)


def check_heads_and_keys(
    paths: DirectoryPaths, policy: Policy | None, origin: str, findings: Findings
) -> None:
    """Check what the log signed, in the evidence, and its own keys."""
    log_keys = [each.verifier for each in policy.logs] if policy else []
    for file in sorted(paths.evidence.glob("*/theirs")):
        with findings.part(f"evidence/{file.parent.name}"):
            read_own_head(read_limited(file, NOTE_BYTES_MAX), origin, log_keys)
    if paths.key.exists():
        with findings.part("key"):
            known = {str(each) for each in log_keys}
            for signer in read_signers(paths):
                if signer.verifier.name != origin or str(signer.verifier) not in known:
                    raise VerificationError(f"{signer.verifier} is not a key of this log's policy")


def check_marker(
    paths: DirectoryPaths, policy: Policy | None, log: LogStore, findings: Findings
) -> None:
    """Check that the log has the head that it published last."""
    if not paths.marker.exists() or policy is None:
        return
    with findings.part("published"):
        keys = [each.verifier for each in policy.logs]
        head = read_own_head(read_limited(paths.marker, NOTE_BYTES_MAX), log.origin(), keys)
        if is_missing(log, head):
            raise VerificationError(
                f"the head of size {head.head.tree_size} was published, and the log does not have "
                "it: an older copy of the log was put back; run ledger recover"
            )


def _check_access(paths: DirectoryPaths, logged: list[TokenEvent], findings: Findings) -> None:
    if not (paths.access / DATA_FILE).exists():
        raise UnavailableError(f"there are no tokens in {paths.access}")
    with closing(AccessStore.open(paths.access)) as access:
        check_pages(access.environment)
        findings.add("access", access.damaged())
        records = access.records()
        findings.tokens = len(records)
        waiting = [read_token_event(event, is_leaf=False) for _, event in access.outbox()]
        events = [*logged, *(each for each in waiting if each is not None)]
        findings.add("access", token_problems(events, records))
