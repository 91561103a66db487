"""Plans a pruning: which entries a ledger's policy lets go today, and which rules keep the rest.

Each rule has a bound: the first entry that it keeps. The minimum index that a pruning may reach is
the least of them, rounded down to a whole bundle:

    the age and the number of the policy, the published head of a quorum, each legal hold, each
    follower and its dead letters, each archive and each mirror that the policy names

A plan reads the log and changes nothing.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final

import msgspec

from ledger.follow.followers import FOLLOWERS
from ledger.object_storage.open_log import open_log
from ledger.query.engine import QueryEngine
from ledger.query.open_index import open_index
from ledger.retention.followers import archived_up_to, first_dead_letter, follower_reports
from ledger.retention.legal_holds import (
    LegalHold,
    check_known,
    check_not_held,
    first_held,
    read_holds,
)
from ledger.retention.policy import RetentionPolicy, read_retention
from ledger.service.data_dir import DirectoryPaths, read_own_settings
from ledger.service.policy_file import read_policy
from ledger.service.start_record import missing_files
from ledger.store import keyspace
from ledger.store.kept_heads import kept_heads
from ledger.store.log import LogStore
from ledger_core.event.times import format_time, parse_time
from ledger_core.query.analyzer import decode_view
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import Policy
from ledger_core.tlog.tile import TILE_WIDTH

SECOND_US: Final = 1_000_000
DAY_US: Final = 86_400_000_000
HEADS_MAX: Final = 256
"""Published heads that are searched for the cosignature of a mirror."""

Progress = Callable[[int, int], None]


class Bound(msgspec.Struct, frozen=True):
    """The first entry that a rule keeps."""

    rule: str
    first_kept: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The entries `[minimum_before, minimum_after)` may go.

    `oldest`, `newest`: when the first and the last of them were received; None for none. `tenants`:
    how many of them each has, those of none under "". `stored_bytes`: of their bundles on the disk.
    """

    minimum_before: int
    minimum_after: int
    tree_size: int
    root_hash: str
    entries: int
    oldest: str | None
    newest: str | None
    tenants: dict[str, int]
    stored_bytes: int
    policy: RetentionPolicy
    policy_sha256: str
    bounds: tuple[Bound, ...]


class _Event(msgspec.Struct, gc=False):
    tenant: str = ""


class _Leaf(msgspec.Struct, gc=False):
    event: _Event


_decode_leaf = msgspec.json.Decoder(_Leaf).decode


def make_plan(
    paths: DirectoryPaths,
    *,
    now_unix_us: int,
    progress: Progress = lambda _done, _total: None,
) -> Plan:
    """The plan of a ledger, from its policy, its holds and its followers as they are now.

    Raises: UnavailableError without a policy, when a hold is missing, or when this host's clock is
    far ahead of the log; MalformedError for a file
    that can't be read; DamagedBundleError; VerificationError when the index hides an entry from a
    hold. Cost: a search for each hold, a read of the log, and each query of a hold on what goes.
    """
    policy, policy_sha256 = read_retention(paths.retention)
    if paths.mirror.exists():
        raise UnavailableError(
            f"{paths.root} is a mirror, which keeps the whole log: prune the log itself"
        )
    with closing(open_log(paths.log)) as log:
        _check_clock(paths, log, now_unix_us)
        holds = read_holds(paths)
        bounds = tuple(_bounds(paths, log, policy, holds, now_unix_us=now_unix_us))
        before, head = log.minimum_index, log.head()
        least = min(bound.first_kept for bound in bounds)
        after = max(before, least - least % TILE_WIDTH)
        check = check_not_held(holds, now_unix_us)
        tenants, stored_bytes = _count(log, before, after, check, progress)
        return Plan(
            minimum_before=before,
            minimum_after=after,
            tree_size=head.tree_size,
            root_hash=head.root_hash.hex(),
            entries=after - before,
            oldest=_received(log, before) if after > before else None,
            newest=_received(log, after - 1) if after > before else None,
            tenants=dict(sorted(tenants.items())),
            stored_bytes=stored_bytes,
            policy=policy,
            policy_sha256=policy_sha256,
            bounds=bounds,
        )


def _check_clock(paths: DirectoryPaths, log: LogStore, now_unix_us: int) -> None:
    """Refuse ages by a clock that is far ahead: what it lets go is gone when it is set right.

    The service refuses to start by the same setting. Raises: UnavailableError that names it.
    """
    size = log.head().tree_size
    if size == log.minimum_index:
        return
    last = _received(log, size - 1)
    ahead_s = (now_unix_us - parse_time(last)) // SECOND_US
    most_s = read_own_settings(paths).clock_ahead_max_s
    if ahead_s > most_s:
        raise UnavailableError(
            f"this host's clock says {format_time(now_unix_us)}, {ahead_s} s after the last entry "
            f"was received, at {last}: entries may seem older than they are. Set the clock, or, if "
            f"it is right, clock_ahead_max_s in {paths.settings}, which is {most_s}"
        )


def published_size(log: LogStore, policy: Policy) -> int:
    """The entries below the last published head that meets a policy; 0 for none."""
    published = log.published()
    return 0 if published is None else policy.check(published.note).checkpoint.tree_size


def _bounds(
    paths: DirectoryPaths,
    log: LogStore,
    policy: RetentionPolicy,
    holds: tuple[LegalHold, ...],
    *,
    now_unix_us: int,
) -> Iterator[Bound]:
    """The bounds of all rules. The holds are searched only below the least of the other bounds."""
    own = read_policy(paths).policy
    published = published_size(log, own)
    until_us = now_unix_us - round(policy.minimum_age_days * DAY_US)
    found = [
        Bound(
            f"minimum_age_days = {policy.minimum_age_days:g}",
            _first_received(log, until_us) if policy.minimum_age_days else log.head().tree_size,
        ),
        Bound(
            f"minimum_entries = {policy.minimum_entries}",
            max(0, log.head().tree_size - policy.minimum_entries),
        ),
        Bound("the published head", published),
        *_follower_bounds(paths),
        *(Bound(f"archive {name}", archived_up_to(paths.root, name)) for name in policy.archives),
    ]
    yield from found
    least = min(bound.first_kept for bound in found)
    for name in policy.mirrors:
        yield Bound(f"mirror {name}", least if _is_mirrored(log, own, name, least) else 0)
    engine = QueryEngine(log, open_index(log, paths.index) if paths.index.exists() else None)
    check_known(log, holds)
    for hold in holds:
        first = first_held(engine, hold, least, now_unix_us=now_unix_us)
        if first is not None:
            yield Bound(f"legal hold {hold.name}", first)


def _follower_bounds(paths: DirectoryPaths) -> Iterator[Bound]:
    gone = {spec.file for spec in FOLLOWERS} & set(missing_files(paths))
    if gone:
        raise UnavailableError(
            f"{', '.join(sorted(gone))} was there when the ledger was last started, and is gone: "
            "what its followers lack would be pruned. Put it back, empty if it had its time"
        )
    for report in follower_reports(paths.root):
        yield Bound(report.name, report.next_index)
        first = first_dead_letter(paths.root, report)
        if first is not None:
            yield Bound(f"dead letters of {report.name}", first)


def _is_mirrored(log: LogStore, policy: Policy, name: str, size: int) -> bool:
    """Whether a mirror has cosigned a published head of so many entries, and so holds them."""
    if name not in {_shown(witness.name) for witness in policy.witnesses}:
        raise MalformedError(f"mirrors: the policy of the log has no witness {name!r}")
    for signed in kept_heads(log.environment, start=size, most=HEADS_MAX):
        try:
            head = policy.check(signed.note)
        except VerificationError:
            continue  # It was signed under an earlier policy.
        if name in {_shown(each) for each, _ in head.cosignatures}:
            return True
    return False


def _shown(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _first_received(log: LogStore, since_us: int) -> int:
    """The first entry that was received at a time or later: times never run backwards."""
    return bisect_left(
        range(log.head().tree_size),
        since_us,
        lo=log.minimum_index,
        key=lambda index: parse_time(_received(log, index)),
    )


def _received(log: LogStore, leaf_index: int) -> str:
    leaf = log.leaf(leaf_index)
    if leaf is None:
        raise MalformedError(f"the log has no entry {leaf_index}")
    return decode_view(leaf).received.time


def _count(
    log: LogStore,
    start: int,
    end: int,
    check: Callable[[int, bytes], None],
    progress: Progress,
) -> tuple[Counter[str], int]:
    """The entries of each tenant in a range of whole bundles, and the bytes of these bundles.

    `check` gets each entry. Raises: what it raises.
    """
    tenants: Counter[str] = Counter()
    stored_bytes = 0
    with log.environment.read() as snapshot:
        for leaves in log.leaves_between(snapshot, start, end):
            tenants.update(_decode_leaf(leaf).event.tenant for leaf in leaves)
            for index, leaf in enumerate(leaves, start):
                check(index, leaf)
            start += len(leaves)
            frame = snapshot.get(keyspace.ENTRIES, keyspace.bundle_key(start // TILE_WIDTH - 1))
            stored_bytes += len(frame or b"")
            progress(start, end)
    return tenants, stored_bytes
