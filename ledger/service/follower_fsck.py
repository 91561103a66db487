"""fsck of the followers: positions and dead letters against the log, and the Parquet files."""

from ledger.alarms import config as alarms
from ledger.alarms.worker import read_fired, read_memory
from ledger.follow.entries import check_position, position_at
from ledger.follow.followers import FOLLOWERS
from ledger.follow.position import FollowerPaths, FollowerState, Position
from ledger.query.parquet_segments import DAMAGED_FILE, sealed_files
from ledger.runtime.records import read_record
from ledger.service.data_dir import DirectoryPaths
from ledger.service.fsck import Findings
from ledger.sinks import config as sinks
from ledger.sinks.dead_letters import read_all
from ledger.store.log import LogStore
from ledger_core.tlog.errors import VerificationError


def check_followers(paths: DirectoryPaths, log: LogStore, findings: Findings) -> None:
    """Check what each follower keeps but the index; of one without a table as well."""
    directory = paths.root
    with findings.part("parquet"):
        damaged = sealed_files(log, paths.parquet, log.head().tree_size).damaged
        findings.add("parquet", [f"{path.name} {DAMAGED_FILE}" for path in damaged])
    with findings.part("sinks.toml"):
        sinks.read_sinks(directory)
    if alarms.alarms_path(directory).exists():
        with findings.part("alarms.toml"):
            alarms.read_alarms(directory)
    kinds = [spec.name for spec in FOLLOWERS if spec.is_each]
    for folder in sorted(each for kind in kinds for each in (directory / kind).glob("*/")):
        kind, name = folder.parent.name, f"{folder.parent.name}/{folder.name}"
        follower = FollowerPaths(directory, kind, folder.name)
        state = _check_records(follower, log, findings, name)
        with findings.part(f"{name}/dead.jsonl"):
            _check_dead_letters(follower, log, state)
    own = FollowerPaths(directory, alarms.KIND, "")
    if own.root.exists():
        _check_records(own, log, findings, alarms.KIND)
        with findings.part(f"{alarms.KIND}/fired.json"):
            read_fired(own)
        with findings.part(f"{alarms.KIND}/memory.json"):
            read_memory(own)


def _check_records(
    paths: FollowerPaths, log: LogStore, findings: Findings, name: str
) -> FollowerState:
    """Check the positions and the state; the state, an empty one if it can't be read."""
    for path in (paths.position, paths.rewind):
        with findings.part(f"{name}/{path.name}"):
            check_position(log, read_record(path, Position) or Position())
    state = None
    with findings.part(f"{name}/{paths.state.name}"):
        state = read_record(paths.state, FollowerState)
    return state or FollowerState()


def _check_dead_letters(paths: FollowerPaths, log: LogStore, state: FollowerState) -> None:
    for letter in read_all(paths, state):
        if position_at(log, letter.index + 1).last_leaf_hash != letter.leaf_hash:
            raise VerificationError(f"the log has another entry {letter.index} than was refused")
