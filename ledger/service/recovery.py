"""Recovery of an old copy of a ledger: shows which entries are missing, and takes them over.

Heads that the log signed and the store does not have come from the hold, the marker, the evidence
and the witnesses. The entries themselves come from a newer folder or backup of the same log, or
from receipts: pairs of files NAME.leaf.json and NAME.tlog-proof, as `ledger prove` writes them.

If the log here has taken other events since, under indices that were given before, the entries of
the newer folder stay where they are, and those events are appended behind them.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, NamedTuple
from urllib.request import urlopen

from ledger.log.hold import is_missing, read_hold, read_marker, read_own_head, write_marker
from ledger.object_storage.open_log import open_log, open_writer
from ledger.service.backup import MANIFEST, append_log, backup_paths
from ledger.service.backup_erasures import erase_subjects, erasures_of
from ledger.service.data_dir import DirectoryPaths, open_tokens, read_own_settings
from ledger.service.old_values import bind_old_values
from ledger.service.private_fields import PrivateFields, opened_values
from ledger.service.recovery_journal import (
    DRAFT,
    begin,
    finish,
    put_log_in_place,
    read_unfinished,
)
from ledger.service.secret_stores import open_private
from ledger.store.environment import DATA_FILE
from ledger.store.log import LogStore
from ledger.store.log_start import last_received_time
from ledger.store.token_events import REVOKED, read_token_event
from ledger.store.writer import LogWriter, NewEntry, Placement, entry_of
from ledger_client.runtime.files import read_limited, sync_directory
from ledger_core.event.canonical import LEAF_BYTES_MAX, format_leaf, parse_leaf
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.note import NOTE_BYTES_MAX, verify_note
from ledger_core.tlog.policy import POLICY_BYTES_MAX, Policy, parse_policy
from ledger_core.tlog.proof import PROOF_BYTES_MAX, parse_proof
from ledger_core.tlog.verify import check_inclusion

ASK_WAIT_S: Final = 5.0


class KnownHead(NamedTuple):
    """A head that the log signed, and who has it. `is_missing`: the store here lacks it."""

    by: str
    head: SignedCheckpoint
    is_missing: bool


class Known(NamedTuple):
    """The known heads of a log, largest first, and the parties that could not be asked, and why."""

    heads: tuple[KnownHead, ...]
    failures: tuple[str, ...]


class Taken(NamedTuple):
    """The entries and values that were taken over.

    `moved`: events of this ledger that are now behind the others. `conflicts`: those of them whose
    id another event has, or one that can't be read; they are left in `kept`, the folder of the log
    before.
    """

    entries: int
    moved: int = 0
    conflicts: int = 0
    values: int = 0
    kept: Path | None = None
    gaps: tuple[int, ...] = ()


def known_heads(paths: DirectoryPaths, *, ask: bool = True) -> Known:
    """The heads of a ledger's log that its own files and its witnesses have.

    Raises: UnavailableError, MalformedError when the ledger can't be read.
    """
    policy = parse_policy(read_limited(paths.policy, POLICY_BYTES_MAX))
    log_keys = [log.verifier for log in policy.logs]
    failures: list[str] = []
    found: dict[str, KnownHead] = {}
    with closing(open_log(paths.log)) as store:
        origin = store.origin()
        for by, data in _shown(paths, policy, origin, failures, ask=ask):
            try:
                head = read_own_head(data, origin, log_keys)
            except (MalformedError, VerificationError) as error:
                failures.append(f"{by} shows no head of this log: {error}")
                continue
            found[by] = KnownHead(by, head, is_missing(store, head))
    heads = sorted(found.values(), key=lambda known: -known.head.head.tree_size)
    return Known(tuple(heads), tuple(failures))


def take_over(paths: DirectoryPaths, newer: Path, *, now: str) -> Taken:
    """Take over the entries that a newer folder or backup of the same log has.

    Raises: VerificationError when it is another log, or has nothing that is missing here;
    UnavailableError while the service runs. Before anything is changed: UnavailableError without
    private.key; DamagedBundleError when an entry that is to be taken over or moved can't be read.
    """
    other = backup_paths(newer) if (newer / MANIFEST).exists() else DirectoryPaths(newer)
    put_log_in_place(paths)
    taken = Taken(0)
    with ExitStack() as opened:
        theirs = opened.enter_context(closing(open_log(other.log, directory=other.root)))
        with closing(open_writer(paths.log)) as writer:
            own = writer.store
            if theirs.origin() != own.origin():
                raise VerificationError(f"{newer} is a ledger of {theirs.origin()}")
            shared, size = common_size(own, theirs), own.head().tree_size
            head = theirs.head()
            if head.tree_size == shared and read_unfinished(paths) is None:
                raise VerificationError(
                    f"{newer} has no entry that {paths.log} lacks: give another folder, or --accept"
                )
            if (paths.private / DATA_FILE).exists() and not paths.private_key.exists():
                raise UnavailableError(f"put your copy of private.key at {paths.private_key} first")
            _check_readable(theirs, shared)
            _check_readable(own, shared)
            start = begin(paths, shared, newer)
            if shared < min(size, head.tree_size):
                taken = _rebuild(paths, writer, theirs, shared, now=now)
        if shared == size < head.tree_size:
            with theirs.environment.read() as snapshot:
                append_log(theirs, snapshot, paths.log, head, lambda _done, _total: None)
            taken = Taken(head.tree_size - size)
        values = _take_values(paths, other, theirs, start)
    _apply(paths, start)
    finish(paths)
    return taken._replace(values=values)


def take_receipts(paths: DirectoryPaths, folder: Path) -> Taken:
    """Take over the entries of receipts, from the end of the log up to the first that is missing.

    Raises: VerificationError, MalformedError, before anything is changed, for a receipt that proves
    nothing, and for one of an event that the log has at another index.
    """
    policy = parse_policy(read_limited(paths.policy, POLICY_BYTES_MAX))
    leaves = dict(_receipts(folder, policy))
    with closing(open_writer(paths.log)) as writer:
        start = end = writer.head.tree_size
        while end in leaves:
            end += 1
        entries = [entry_of(leaves[index]) for index in range(start, end)]
        for index, entry in enumerate(entries, start):
            tenant = parse_leaf(entry.leaf).event.tenant
            found = writer.store.index_for(entry.id_bytes, tenant or None)
            if found is not None:
                raise VerificationError(
                    f"the receipt of entry {index} is of an event that the log has at {found}: "
                    "this needs the newer folder, with --from"
                )
        begun = begin(paths, start, folder)
        placed = writer.commit(entries)
        if any(each.placement is not Placement.APPENDED for each in placed):
            raise AssertionError("the id of each was looked up before")
    last = max(leaves, default=0)
    gaps = tuple(index for index in range(end, last + 1) if index not in leaves)
    _apply(paths, begun)
    finish(paths)
    return Taken(end - start, gaps=gaps)


def end_hold(paths: DirectoryPaths) -> None:
    """Let the log take events again, from its size now on."""
    paths.hold.unlink(missing_ok=True)
    marker = marker_path(paths)
    with closing(open_log(paths.log)) as store:
        published = store.published()
    if published is None:
        marker.unlink(missing_ok=True)
    else:
        write_marker(marker, published.note)
    sync_directory(paths.root)


def marker_path(paths: DirectoryPaths) -> Path:
    """The file of the marker, by the settings of the ledger. Raises: MalformedError."""
    name = read_own_settings(paths).marker_file
    return Path(name) if name else paths.marker


def common_size(own: LogStore, theirs: LogStore) -> int:
    """The size of the largest tree that two logs begin with. Cost: log2(n) roots of each."""
    low, high = 0, min(own.head().tree_size, theirs.head().tree_size)
    while low < high:
        middle = (low + high + 1) // 2
        if own.root_at(middle) == theirs.root_at(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _shown(
    paths: DirectoryPaths, policy: Policy, origin: str, failures: list[str], *, ask: bool
) -> Iterator[tuple[str, bytes]]:
    hold = read_hold(paths.hold)
    for each in hold.heads if hold is not None else ():
        yield each.by, each.note.encode()
    marker = read_marker(marker_path(paths))
    if marker is not None:
        yield "the marker", marker.note.encode()
    for file in sorted(paths.evidence.glob("*/theirs")):
        yield f"evidence/{file.parent.name}", read_limited(file, NOTE_BYTES_MAX)
    urls = {each.url: each.name for each in policy.witnesses if each.url is not None}
    path = f"/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"
    for url, name in urls.items() if ask else ():
        if not url.startswith(("http://", "https://")):
            continue
        try:
            # The scheme was checked above.
            with urlopen(url.rstrip("/") + path, timeout=ASK_WAIT_S) as answer:  # noqa: S310
                yield f"the witness {name}", answer.read(NOTE_BYTES_MAX + 1)
        except (OSError, ValueError) as error:
            failures.append(f"the witness {name} can't be asked: {error}")


def _check_readable(log: LogStore, start: int) -> None:
    """Read all entries from an index on. Raises: DamagedBundleError."""
    with log.environment.read() as snapshot:
        for _ in log.leaves_between(snapshot, start, log.head().tree_size):
            pass


def _rebuild(
    paths: DirectoryPaths, writer: LogWriter, theirs: LogStore, shared: int, *, now: str
) -> Taken:
    """Put the newer log in the place of this one, and its own events behind it."""
    draft = paths.log.with_name(DRAFT)
    if draft.exists():
        shutil.rmtree(draft)
    with theirs.environment.read() as snapshot:
        theirs.environment.copy_snapshot(snapshot, draft)
    moved = conflicts = 0
    with closing(LogWriter.open(draft)) as rebuilt:
        taken = rebuilt.head.tree_size - shared
        time = last_received_time(rebuilt.store) or ""
        with writer.store.environment.read() as snapshot:
            size = writer.head.tree_size
            for leaves in writer.store.leaves_between(snapshot, shared, size):
                entries = []
                for leaf in leaves:
                    entry = _received_at_least(leaf, time)
                    time = parse_leaf(entry.leaf).received.time
                    entries.append(entry)
                placed = [each.placement for each in rebuilt.commit(entries)]
                moved += placed.count(Placement.APPENDED)
                conflicts += len(placed) - placed.count(Placement.APPENDED)
                conflicts -= placed.count(Placement.DUPLICATE)
    kept = paths.log.with_name(f"log.before-{now.translate({ord(c): None for c in ':-.'})}")
    if paths.index.exists():
        shutil.rmtree(paths.index)  # It is made again from the log, and would be of another one.
        sync_directory(paths.root)
    paths.log.rename(kept)
    put_log_in_place(paths)
    return Taken(taken, moved, conflicts, kept=kept)


def _received_at_least(leaf: bytes, time: str) -> NewEntry:
    """The entry of a logged event, whose time of receipt is not before `time`."""
    parsed = parse_leaf(leaf)
    received = parsed.received
    again = format_leaf(
        event_json=parsed.event_json, by=received.by, received_time=max(received.time, time)
    )
    return entry_of(again)


def _take_values(paths: DirectoryPaths, other: DirectoryPaths, theirs: LogStore, start: int) -> int:
    """Copy the private values of entries that were taken over, where they can be read."""
    if not ((other.private / DATA_FILE).exists() and other.private_key.exists()):
        return 0
    values = 0
    with ExitStack() as opened:
        own = opened.enter_context(closing(open_private(paths, make_key=lambda: b"")))
        store = opened.enter_context(closing(open_private(other, make_key=lambda: b"")))
        bind_old_values(store, theirs)
        opener = PrivateFields(store, (), lambda _id, _tenant: None)
        with theirs.environment.read() as snapshot:
            for leaves in theirs.leaves_between(snapshot, start, theirs.head().tree_size):
                found = [each for leaf in leaves for each in opened_values(opener, leaf)]
                if found:
                    own.put(found)
                values += len(found)
    return values


def _apply(paths: DirectoryPaths, start: int) -> None:
    """Revoke the tokens, and erase the subjects, that entries from an index on say."""
    with closing(open_log(paths.log)) as log:
        erase_subjects(paths.private, erasures_of(log, start))
        with closing(open_tokens(paths)) as access, log.environment.read() as snapshot:
            in_use = {each.name for each in access.records() if each.revoked is None}
            for leaves in log.leaves_between(snapshot, start, log.head().tree_size):
                for leaf in leaves:
                    # An event of an application may have such an action in its context.
                    about = read_token_event(leaf)
                    if about is None or about.action != REVOKED or about.name not in in_use:
                        continue
                    told = parse_leaf(leaf).event_json
                    access.revoke(about.name, revoked=about.time, event=told)
                    in_use.remove(about.name)


def _receipts(folder: Path, policy: Policy) -> Iterator[tuple[int, bytes]]:
    """Index and leaf of each receipt in a folder, proven by a head that the log signed."""
    for file in sorted(folder.glob("*.tlog-proof")):
        leaf_file = file.with_suffix("").with_suffix(".leaf.json")
        try:
            leaf = read_limited(leaf_file, LEAF_BYTES_MAX)
            proof = parse_proof(read_limited(file, PROOF_BYTES_MAX))
            signed = parse_signed_checkpoint(proof.checkpoint)
            verify_note(signed.as_note(), [log.verifier for log in policy.logs])
            check_inclusion(
                leaf_hash=leaf_hash(leaf),
                leaf_index=proof.leaf_index,
                tree_size=signed.head.tree_size,
                proof=proof.hashes,
                root_hash=signed.head.root_hash,
            )
        except FileNotFoundError:
            raise UnavailableError(f"there is no {leaf_file} for {file.name}") from None
        except (MalformedError, VerificationError) as error:
            raise type(error)(f"{file}: {error}") from error
        yield proof.leaf_index, leaf
