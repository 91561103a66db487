"""Backups of a ledger's folder, made while the service runs, and restored into a new folder.

    TO/backup.json     the manifest: size and root of the log, the name of PARTS, checksums
    TO/log/            LMDB: the log; each run adds what is new
    TO/PARTS/access/   LMDB: tokens and outbox, whole
    TO/PARTS/private/  LMDB and the file of keys: erasable values, whole
    TO/PARTS/…         policy, settings, rules, evidence; `key` and `private.key` only if asked for

All parts are of one point in time. Tokens and erasable values change together with entries of the
log, in several steps. So both stores are locked for the moment in which the three snapshots are
taken: an entry's values, an outbox row or its event, a revocation and its event are all there, or
none is. Appends of events without private values don't wait.

The manifest is replaced last, so a run that ends early leaves the backup before it intact. The log
may hold more than the manifest says then, which `restore` leaves out. The index is not copied: the
service makes it again from the log.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Final, Literal, NamedTuple

import msgspec

from ledger.log.hold import HoldRecord, write_hold
from ledger.object_storage.archived_bundles import ArchivedBundles
from ledger.object_storage.open_log import open_log
from ledger.runtime.keys import KEY_FILE_BYTES_MAX
from ledger.runtime.records import unreadable
from ledger.service.backup_erasures import (
    NO_KEY,
    PRUNED_ADVICE,
    erase_subjects,
    erasures_of,
    read_erasures,
)
from ledger.service.backup_files import check_files, check_plain, copy_files, copy_tree, destroy
from ledger.service.data_dir import HOLDS_FILE, DirectoryPaths, check_copied_key
from ledger.service.start_record import (
    EDITED_FILES,
    check_nothing_lost,
)
from ledger.store import keyspace
from ledger.store.drafts import remove_drafts
from ledger.store.environment import DATA_FILE, Environment
from ledger.store.erasable_values import DATABASES as PRIVATE_DATABASES
from ledger.store.erasable_values import MAP_BYTES, PrivateStore
from ledger.store.kept_heads import latest_head
from ledger.store.key_slots import KEYS_FILE, read_slots, slot_count
from ledger.store.log import LogStore, PrunedError, create_log
from ledger.store.pruning import prune_log
from ledger.store.tokens import AccessStore
from ledger.store.transaction import Transaction
from ledger.store.writer import LogWriter, Placement, entry_of
from ledger_client.runtime.files import (
    FileLock,
    FileLockedError,
    create_file,
    read_limited,
    sync_directory,
    write_atomically,
)
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import POLICY_BYTES_MAX
from ledger_core.tlog.tree import TreeHead

MANIFEST: Final = "backup.json"
MANIFEST_BYTES_MAX: Final = 1 << 20
KEY_FILES: Final = ("key", "private.key", "digest.key")
PLAIN_FILES: Final = (*EDITED_FILES, HOLDS_FILE)
ENTRIES_PER_COMMIT: Final = 8_192
is_parts: Final = re.compile(r"parts-[A-Za-z0-9_]{1,64}").fullmatch
ERASURE_RULES: Final = ("follow", "only", "exclude")

Progress = Callable[[int, int], None]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a backup. `files`: the SHA-256, in hex, of each plain file in the parts."""

    format: Literal[1] = 1
    origin: str
    tree_size: int
    root_hash: str
    made: str
    parts: str
    files: dict[str, str]


class Copied(NamedTuple):
    """The result of a backup or a restoration. `entries`: those that were copied by this run.

    `keeps_pruned`: the copy keeps values whose erasures were pruned in the ledger.
    """

    head: TreeHead
    entries: int
    erased: int
    keeps_pruned: bool = False


class Snapshots(NamedTuple):
    """Read transactions of one point in time, and the file of keys as it was then."""

    log: Transaction[bytes]
    access: Transaction[bytes]
    private: Transaction[bytes] | None
    keys: bytes


def back_up(
    directory: Path,
    to: Path,
    *,
    made: str,
    with_keys: bool = False,
    with_private: bool = True,
    progress: Progress = lambda _done, _total: None,
) -> Copied:
    """Bring the backup in `to` up to date with the ledger in a folder, or make it.

    `made` is the time, as in events. What was erased in the ledger is destroyed in the backup.
    Raises: as `check_nothing_lost`, for its copy may be the last one; UnavailableError when there
    is no ledger, or `to` is in use or is another thing; VerificationError when the ledger does not
    extend what was backed up before.
    Cost: reads what is new of the log; access and private as a whole.
    """
    paths = DirectoryPaths(directory)
    check_nothing_lost(paths)
    with _locked(to), ExitStack() as opened:
        log = opened.enter_context(closing(open_log(paths.log)))
        access = opened.enter_context(closing(AccessStore.open(paths.access))).environment
        private = None
        if with_private and (paths.private / DATA_FILE).exists():
            private = Environment.open(
                paths.private, PRIVATE_DATABASES, readonly=False, map_bytes=MAP_BYTES
            )
            opened.enter_context(closing(private))
        snapshots = opened.enter_context(one_point(log.environment, access, private))
        tree = snapshots.log.require(keyspace.META, keyspace.META_TREE)
        head = TreeHead(*keyspace.decode_tree(tree))
        entries = _copy_log(log, snapshots.log, to / "log", head, progress)
        parts = Path(mkdtemp(prefix="parts-", dir=to))
        access.copy_snapshot(snapshots.access, parts / "access")
        if private is not None and snapshots.private is not None:
            (parts / "private").mkdir(mode=0o700)
            create_file(parts / "private" / KEYS_FILE, snapshots.keys)
            private.copy_snapshot(snapshots.private, parts / "private")
            # Completes an erasure that the snapshot came into.
            PrivateStore.open(parts / "private", NO_KEY).close()
        files = copy_files(paths.root, parts, PLAIN_FILES + (KEY_FILES if with_keys else ()))
        manifest = Manifest(
            origin=log.origin(),
            tree_size=head.tree_size,
            root_hash=head.root_hash.hex(),
            made=made,
            parts=parts.name,
            files=files,
        )
        sync_directory(to)
        write_atomically(to / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        for old in to.glob("parts-*"):
            if old != parts:
                destroy(old)
    return Copied(head, entries, 0)


def erase_only(directory: Path, to: Path) -> Copied:
    """Destroy in an older backup what was erased in the ledger since; nothing is copied.

    Where events since the backup were pruned, what the rest of them erased is destroyed, and the
    result says that it `keeps_pruned`. Raises: as `back_up`.
    """
    with _locked(to):
        manifest = read_manifest(to)
        with closing(open_log(DirectoryPaths(directory).log)) as log:
            root_hash = log.root_at(manifest.tree_size) if _has(log, manifest.tree_size) else b""
            if root_hash.hex() != manifest.root_hash:
                raise VerificationError(f"{to} is not a backup of the log in {directory}")
            start = max(manifest.tree_size, log.minimum_index)
            erased = erase_subjects(backup_paths(to).private, erasures_of(log, start))
    head = TreeHead(manifest.tree_size, root_hash)
    return Copied(head, 0, erased, keeps_pruned=start > manifest.tree_size)


def restore(
    backup: Path,
    directory: Path,
    *,
    key: Path | None = None,
    private_key: Path | None = None,
    erasures: Path | None = None,
    is_complete: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> Copied:
    """Make a ledger in a new folder from a backup.

    `key` and `private_key` are copies of these files, where the backup has none. `erasures` is a
    newer ledger or backup, or a file of events as JSON lines: what they say was erased after the
    backup is erased in the new folder too, and their events go into its outbox. Unless the backup
    `is_complete`, the new ledger takes no events until `ledger recover`: what was acknowledged
    after the backup is missing.
    Raises: FileExistsError when there is something in the folder; otherwise as `back_up`.
    """
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; a ledger is restored into a new folder")
    with _locked(backup):
        manifest, old = read_manifest(backup), backup_paths(backup)
        check_files(manifest.files, old.root, known=PLAIN_FILES + KEY_FILES)
        check_copied_key(key, read_limited(old.policy, POLICY_BYTES_MAX))
        try:
            found = [] if erasures is None else read_erasures(erasures, manifest.tree_size)
        except PrunedError as error:
            said = f"{backup} keeps all its values. {error}; {PRUNED_ADVICE}"
            raise UnavailableError(said) from None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = DirectoryPaths(directory)
        with (
            closing(open_log(old.log, directory=old.root)) as log,
            log.environment.read() as snapshot,
        ):
            head = TreeHead(manifest.tree_size, log.root_at(manifest.tree_size))
            if head.root_hash.hex() != manifest.root_hash:
                raise VerificationError(f"the log in {backup} has not the root of its manifest")
            if log.head() == head or log.pruning is not None or log.release() is not None:
                # A pruned log is copied as it is: nothing can grow it from its first entry on. So
                # is one with released entries, which stay in their archive.
                head = log.head()
                log.environment.copy_snapshot(snapshot, new.log)
                progress(head.tree_size, head.tree_size)
            else:
                create_log(new.log, origin=manifest.origin)
                append_log(log, snapshot, new.log, head, progress)
        for name in ("access", "private", "evidence"):
            if (old.root / name).exists():
                copy_tree(old.root / name, directory / name)
        copy_files(old.root, directory, [name for name in manifest.files if name != "key"])
        erased = erase_subjects(new.private, found)
        with closing(AccessStore.open(new.access)) as access:
            for erasure in found:
                access.enqueue(erasure.event_json)
        if private_key is not None:
            create_file(new.private_key, read_limited(private_key, KEY_FILE_BYTES_MAX))
        if not is_complete:
            reason = (
                f"restored from a backup of {manifest.made} with {manifest.tree_size} entries; "
                "what was acknowledged after that is missing"
            )
            write_hold(new.hold, HoldRecord(reason, manifest.made))
        # Last, as in a new ledger: a folder without it was left half-made.
        source = key or old.key
        if source.exists():
            create_file(new.key, read_limited(source, KEY_FILE_BYTES_MAX))
    return Copied(head, head.tree_size, erased)


def read_manifest(backup: Path) -> Manifest:
    """The manifest of a backup. Raises: UnavailableError, MalformedError."""
    try:
        with (backup / MANIFEST).open("rb") as file:
            return msgspec.json.decode(file.read(MANIFEST_BYTES_MAX), type=Manifest)
    except FileNotFoundError:
        raise UnavailableError(f"{backup} is not a finished backup: no {MANIFEST}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise unreadable(backup / MANIFEST, error) from None


def backup_paths(backup: Path) -> DirectoryPaths:
    """The paths of a ledger, inside its backup.

    Raises: as `read_manifest`; VerificationError for a link in its parts.
    """
    parts = read_manifest(backup).parts
    folder = backup / parts
    if not is_parts(parts) or folder.is_symlink() or not folder.is_dir():
        raise MalformedError(f"{backup / MANIFEST}: there is no folder {parts!a}")
    check_plain(folder)
    return DirectoryPaths(backup, parts=parts)


@contextmanager
def one_point(
    log: Environment, access: Environment, private: Environment | None
) -> Iterator[Snapshots]:
    """Snapshots of one point in time: between two changes of tokens and of erasable values."""
    with ExitStack() as snapshots:
        with ExitStack() as locks:
            # Nobody else holds both, so their order is free.
            for store in (access, private):
                if store is not None:
                    locks.enter_context(store.write())
            taken = Snapshots(
                snapshots.enter_context(log.read()),
                snapshots.enter_context(access.read()),
                *((None, b"") if private is None else _read_private(private, snapshots)),
            )
        yield taken


def _read_private(private: Environment, snapshots: ExitStack) -> tuple[Transaction[bytes], bytes]:
    values = snapshots.enter_context(private.read())
    return values, read_slots(private.path, slot_count(values))


def _has(log: LogStore, tree_size: int) -> bool:
    return log.head().tree_size >= tree_size


def _copy_log(
    log: LogStore, snapshot: Transaction[bytes], to: Path, head: TreeHead, progress: Progress
) -> int:
    """Add to a copy of the log what it lacks, or make one; returns the number of entries.

    What was pruned in the log is removed from the copy.
    """
    if not (to / DATA_FILE).exists():
        log.environment.copy_snapshot(snapshot, to)
        progress(head.tree_size, head.tree_size)
        return head.tree_size - log.minimum_index
    with closing(LogStore.open(to)) as copy:
        start = copy.head()
    if log.pruning is None or start.tree_size >= log.minimum_index:
        entries = append_log(log, snapshot, to, head, progress)
        if log.pruning is not None:
            prune_log(to, log.pruning, elsewhere=ArchivedBundles(log.path.parent))
        return entries
    # The next entries of the copy were pruned, so the log as it is takes its place.
    if log.root_at(start.tree_size) != start.root_hash:
        raise VerificationError(f"{log.path} is not the log that was backed up to {to}")
    remove_drafts(to)
    log.environment.copy_snapshot(snapshot, to, check=lambda draft: LogStore.open(draft).close())
    progress(head.tree_size, head.tree_size)
    return head.tree_size - log.minimum_index


def append_log(
    log: LogStore, snapshot: Transaction[bytes], to: Path, head: TreeHead, progress: Progress
) -> int:
    """Append the entries of a log that a copy of its beginning lacks. Raises: VerificationError."""
    with closing(LogWriter.open(to)) as writer:
        start = writer.head.tree_size
        if start > head.tree_size:
            raise VerificationError(
                f"{to} has {start} entries and {log.path} {head.tree_size}: it is older than its "
                "own backup; see `ledger recover`, or back up into a new folder"
            )
        if log.root_at(start) != writer.head.root_hash or log.origin() != writer.store.origin():
            raise VerificationError(f"{log.path} is not the log that was backed up to {to}")
        pending: list[bytes] = []
        for leaves in log.leaves_between(snapshot, start, head.tree_size):
            pending += leaves
            if len(pending) >= ENTRIES_PER_COMMIT:
                _append(writer, pending)
                pending = []
                progress(writer.head.tree_size, head.tree_size)
        _append(writer, pending)
        if writer.head != head:
            raise VerificationError(
                f"the entries of {log.path} give the root {writer.head.root_hash.hex()}, "
                f"its head of size {head.tree_size} says {head.root_hash.hex()}"
            )
        newest = writer.store.published()
        first = keyspace.encode_u64(0 if newest is None else newest.head.tree_size)
        notes = [
            (keyspace.decode_u64(key), note.decode())
            for key, note in snapshot.rows_from(keyspace.CHECKPOINTS, first)
            if keyspace.decode_u64(key) <= head.tree_size
        ]
        renewed = latest_head(snapshot)
        if renewed is not None and renewed.head.tree_size <= head.tree_size:
            notes.append((renewed.head.tree_size, renewed.note))
        writer.commit([], checkpoints=notes)
        progress(head.tree_size, head.tree_size)
        return head.tree_size - start


def _append(writer: LogWriter, leaves: list[bytes]) -> None:
    placed = writer.commit([entry_of(leaf) for leaf in leaves])
    if any(each.placement is not Placement.APPENDED for each in placed):
        raise VerificationError(f"an id stands twice in the log behind {writer.head.tree_size}")


@contextmanager
def _locked(backup: Path) -> Iterator[None]:
    """Keep other runs away from a backup. Raises: UnavailableError when it is something else."""
    names = {path.name for path in backup.iterdir()} if backup.exists() else set()
    if names - {"lost+found"} and not names & {MANIFEST, "backup.lock"}:
        raise UnavailableError(f"{backup} is neither empty nor a backup; choose a new folder")
    backup.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with FileLock(backup / "backup.lock", holder=f"{os.getpid()}\n"):
            yield
    except FileLockedError as error:
        raise UnavailableError(f"{backup} is in use by process {error.holder}") from None
