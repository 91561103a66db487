"""The parts of a service that only one process has: they order events, sign heads and publish.

The same process may answer requests, or front ends do (`ledger.workers`).
"""

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from ledger.follow.followers import FOLLOWERS, PARQUET, Followers
from ledger.log.hold import Hold
from ledger.log.publisher import Publisher, PublisherOptions
from ledger.log.sequencer import LIMITS, Sequencer
from ledger.log.signing import LogSigner
from ledger.log.witness_client import witness_intervals
from ledger.object_storage.open_log import open_writer
from ledger.service.clock import LogClock
from ledger.service.data_dir import DirectoryPaths, read_signers
from ledger.service.mirrored import MakeMirrored, Mirrored, RunningHeads
from ledger.service.policy_file import read_policy
from ledger.service.pruning_journal import check_pruned
from ledger.service.recovery_journal import check_finished
from ledger.service.settings import Settings
from ledger.store.log import LogStore
from ledger.store.log_start import last_received_time
from ledger_client.sql.parquet import check_parquet
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.note import NoteVerifier
from ledger_core.tlog.policy import Policy

_log = structlog.get_logger("ledger.service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The parts, made once at the start."""

    paths: DirectoryPaths
    settings: Settings
    store: LogStore
    sequencer: Sequencer
    publisher: RunningHeads
    verifier_keys: tuple[str, ...]
    clock: LogClock
    followers: Followers
    mirrored: Mirrored | None = None
    """The log on another host that this service mirrors, if it does."""
    broken: list[str] = field(default_factory=list)
    """Reasons why the service is not ready: background tasks that ended by an error."""


def open_engine(
    paths: DirectoryPaths,
    settings: Settings,
    opened: AsyncExitStack,
    make_mirrored: MakeMirrored | None,
) -> Engine:
    """Open the log for writing; `opened` closes it after its readers. Raises: as `app.serve`."""
    check_finished(paths)
    check_pruned(paths)
    signers = read_signers(paths) if make_mirrored is None else ()
    policy = read_policy(paths).policy
    writer = open_writer(
        paths.log,
        map_bytes=settings.map_bytes,
        waits_on_loop=False,
        caches=not settings.query_process,
    )
    limits = replace(
        LIMITS,
        waiting_max=settings.waiting_events_max,
        waiting_bytes_max=settings.waiting_bytes_max,
    )
    clock = LogClock(last=last_received_time(writer.store), read_unix_ns=time.time_ns)
    hold = Hold(paths.hold)
    sequencer = Sequencer(writer, limits=limits, hold=hold, receive_us=clock.now)
    opened.push_async_callback(sequencer.stop)
    if make_mirrored is None:
        clock.check_start(settings)
    mirrored = None if make_mirrored is None else make_mirrored(sequencer)
    heads = (
        mirrored.heads if mirrored else _open_publisher(paths, settings, sequencer, signers, policy)
    )
    keys = [log.verifier for log in policy.logs] if mirrored else [s.verifier for s in signers]
    if settings.parquet:
        check_parquet()
    followers = Followers(paths.root, (*FOLLOWERS, PARQUET) if settings.parquet else FOLLOWERS)
    followers.start()
    opened.callback(followers.stop)
    return Engine(
        paths=paths,
        settings=settings,
        store=writer.store,
        sequencer=sequencer,
        publisher=heads,
        verifier_keys=tuple(map(str, keys)),
        clock=clock,
        followers=followers,
        mirrored=mirrored,
    )


def _open_publisher(
    paths: DirectoryPaths,
    settings: Settings,
    sequencer: Sequencer,
    signers: Sequence[LogSigner],
    policy: Policy,
) -> Publisher:
    """The publisher of a ledger. Raises: MalformedError, VerificationError for an unfit key."""
    origin = sequencer.store.origin()
    for signer in signers:
        if signer.verifier.name != origin:
            raise MalformedError(f"a key is {signer.verifier.name}'s, the log's origin is {origin}")
    publisher = Publisher(
        sequencer,
        signers,
        policy,
        evidence=paths.evidence,
        options=PublisherOptions(
            interval_s=settings.publish_interval_s,
            heartbeat_s=settings.heartbeat_interval_s,
            witness_timeout_s=settings.witness_timeout_s,
            witness_intervals_s=witness_intervals(settings.witness_intervals_s, policy),
            mirrors=paths.root,
            marker=Path(settings.marker_file) if settings.marker_file else paths.marker,
        ),
    )
    # They must end the start, not the first publication: a log that is not as it was, and a policy
    # that doesn't know our keys.
    publisher.check_extends(sequencer.head)
    known: set[NoteVerifier] = {log.verifier for log in policy.logs}
    if known.isdisjoint(signer.verifier for signer in signers):
        raise VerificationError(f"the policy lists no key of this log, {origin}")
    publisher.check_marker()
    return publisher
