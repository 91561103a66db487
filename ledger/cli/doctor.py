"""`ledger doctor DIR`: what is wrong with a ledger on this machine, and what mends it."""

import resource
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from ledger.archive.worker import read_kept_lock
from ledger.cli.folders import LEDGER, MIRROR, READER, check_kind, kind_of
from ledger.cli.local_service import ask_service, own_address
from ledger.cli.options import AGENT_TRIAL
from ledger.follow.position import FollowerPaths
from ledger.mirror.data_dir import log_origin
from ledger.object_storage.config import KIND, archives_path, read_archives
from ledger.object_storage.open_log import open_log
from ledger.reader.data_dir import ReaderPaths, read_config
from ledger.reader.fsck import served_head
from ledger.runtime.ssh_agent import AgentKey
from ledger.runtime.tls import open_tls
from ledger.service.data_dir import DirectoryPaths, open_tokens, read_own_settings, read_signers
from ledger.service.identities.config import Principals
from ledger.service.identities.identities import read_usable_principals
from ledger.service.key_rotation import divide
from ledger.service.process_limits import OWN_DESCRIPTORS
from ledger.service.report import MAP_FILL_WARNED
from ledger.service.settings import Settings
from ledger.store.commit_errors import free_bytes
from ledger.store.tokens import TokenRecord
from ledger_client.cli.doctor import Finding
from ledger_client.runtime.clock import unix_us
from ledger_client.runtime.files import read_limited
from ledger_client.runtime.server import parse_listen
from ledger_core.event.times import parse_time
from ledger_core.evidence.policies import find_weaknesses
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy

TOKEN_EXPIRY_WARNED_US: Final = 14 * 86_400_000_000
_UNUSABLE: Final = (MalformedError, UnavailableError, VerificationError, OSError, ValueError)

_MENDS: Final = {
    "ledger recover": "ledger recover {directory}",
    "damaged": "ledger fsck {directory}",
    "clock": "set the clock of this host: timedatectl set-ntp true",
    "free_bytes_min": "free space on the disk, or set free_bytes_min in ledger.toml",
    "witness": "ledger status {directory} names the witnesses that don't answer",
    "quorum": "ledger status {directory} names the witnesses that don't answer",
    "dead letters": "ledger sink dead-letters {directory} NAME",
    "follower archive/": "ledger archive status {directory}",
    "follower": "ledger sink list {directory}",
    "index": "wait until it has caught up; if it does not: ledger reindex {directory}",
    "started again": "start the service again",
}
"""By a word of what a service says is wrong: the command that shows or mends it."""


def find_faults_here(directory: Path, url: str | None) -> Iterator[Finding]:
    """Make all checks of a ledger's folder, and of its service at `url` or where it listens."""
    check_kind(directory, (LEDGER, MIRROR, READER), "ledger doctor")
    paths = DirectoryPaths(directory)
    try:
        settings = read_own_settings(paths)
    except _UNUSABLE as error:
        yield Finding("settings", "failed", f"{error}: correct {paths.settings}")
        return
    yield Finding("settings", "ok", f"{paths.settings} can be read")
    is_ledger = kind_of(directory) is LEDGER
    if paths.reader.exists():
        yield from _check_reader(paths)
    else:
        yield from _check_store(paths, settings)
    yield from _check_held(paths)
    if is_ledger:
        yield from _check_keys(paths)
    yield from _check_policy(paths)
    yield from _check_tls(settings)
    yield from _check_tokens(paths, settings)
    yield from _check_principals(paths)
    yield from _check_limits(settings)
    yield from _check_archives(paths)
    yield from _check_service(paths, url or own_address(settings))
    if not settings.audit_reads and is_ledger:
        text = "reads are in no event: set audit_reads = 1 in ledger.toml to have them in the log"
        yield Finding("audit", "ok", text)


def _check_store(paths: DirectoryPaths, settings: Settings) -> Iterator[Finding]:
    try:
        with closing(open_log(paths.log, map_bytes=settings.map_bytes)) as log:
            size, fill = log.head().tree_size, log.environment.fill_ratio()
    except _UNUSABLE as error:
        yield Finding("log", "failed", f"{error}: ledger fsck {paths.root}")
        return
    yield Finding("log", "ok", f"{size:,} entries")
    if fill > MAP_FILL_WARNED:
        text = f"the map is {fill:.0%} full: raise map_bytes in ledger.toml, and start again"
        yield Finding("log", "warning", text)
    free = free_bytes(paths.log)
    if free < settings.free_bytes_min:
        text = f"{free:,} bytes are free, less than free_bytes_min: free space on {paths.log}"
        yield Finding("disk", "warning", text)
    else:
        yield Finding("disk", "ok", f"{free:,} bytes are free")


def _check_reader(paths: DirectoryPaths) -> Iterator[Finding]:
    """Check the archive that a folder reads, and what it served last."""
    reader = ReaderPaths(paths.root)
    try:
        url, head = read_config(reader).url, served_head(reader)
    except _UNUSABLE as error:
        yield Finding("archive", "failed", f"{error}: ledger fsck {paths.root}")
        return
    size = "no head yet" if head is None else f"a head of {head.tree_size:,} entries"
    text = f"reads {url}, and served {size}: ledger verify-archive {url} checks all of it"
    yield Finding("archive", "ok", text)


def _check_held(paths: DirectoryPaths) -> Iterator[Finding]:
    if paths.recovering.exists():
        text = f"a recovery was interrupted: ledger recover {paths.root}"
        yield Finding("log", "failed", text)
    if paths.hold.exists():
        text = f"no event is taken until a person decides: ledger recover {paths.root}"
        yield Finding("log", "failed", text)
    if any(paths.evidence.glob("*")):
        text = (
            f"{paths.evidence} shows another history of this log: read it, keep a copy, and ask "
            "who had the signing key"
        )
        yield Finding("log", "warning", text)


def _check_keys(paths: DirectoryPaths) -> Iterator[Finding]:
    try:
        signers = read_signers(paths)
    except _UNUSABLE as error:
        # A file that can't be opened says itself what is to do: a mode, a passphrase.
        is_lost = isinstance(error, MalformedError) or not paths.key.exists()
        mend = f": put back your copy of {paths.key}" if is_lost else ""
        yield Finding("key", "failed", f"{error}{mend}")
        return
    for signer in signers:
        if isinstance(signer.key, AgentKey):
            try:
                signer.key.sign(AGENT_TRIAL)
            except UnavailableError as error:
                yield Finding("key", "failed", f"{error}: start it; no head is signed until then")
                return
    yield Finding("key", "ok", f"{len(signers)} in {paths.key}: keep a copy offline")
    if divide(signers).old:
        text = f"it is being replaced: ledger key retire {paths.root} when everybody has the policy"
        yield Finding("key", "warning", text)


def _check_policy(paths: DirectoryPaths) -> Iterator[Finding]:
    try:
        policy = parse_policy(read_limited(paths.policy, POLICY_BYTES_MAX))
    except _UNUSABLE as error:
        text = f"{error}: ledger key show {paths.root} gives its log line again"
        yield Finding("policy", "failed", text)
        return
    weaknesses = list(find_weaknesses(policy))
    for weakness in weaknesses:
        mend = "name witnesses and a quorum in the policy, as docs/witnesses.md shows"
        yield Finding("policy", "warning", f"{weakness}: {mend}")
    if not weaknesses:
        yield Finding("policy", "ok", f"witnesses: {len(policy.witnesses)}, and a quorum")


def _check_tls(settings: Settings) -> Iterator[Finding]:
    try:
        tls = open_tls(settings)
    except _UNUSABLE as error:
        yield Finding("TLS", "failed", str(error))
        return
    if tls is not None:
        for warning in tls.warnings():
            yield Finding("TLS", "warning", warning)
        ends = datetime.fromtimestamp(tls.expires_unix_s, UTC)
        yield Finding("TLS", "ok", f"the certificate ends at {ends:%Y-%m-%dT%H:%M:%SZ}")
    elif not _is_loopback(parse_listen(settings.listen)[0]):
        text = (
            f"{settings.listen} is served without TLS: set tls_cert and tls_key, or listen on "
            "127.0.0.1 behind a proxy that has TLS"
        )
        yield Finding("TLS", "warning", text)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_tokens(paths: DirectoryPaths, settings: Settings) -> Iterator[Finding]:
    try:
        with closing(open_tokens(paths, settings)) as access:
            records, damaged = access.records(), access.damaged()
    except _UNUSABLE as error:
        yield Finding("tokens", "failed", f"{error}: ledger fsck {paths.root}")
        return
    for each in damaged:
        yield Finding("tokens", "failed", f"{each}: revoke it and make another")
    now = unix_us()
    in_use = [record for record in records if record.is_in_use(now)]
    if not in_use:
        text = f"none is in use: ledger token create {paths.root} --name NAME --scope append"
        yield Finding("tokens", "warning", text)
        return
    yield Finding("tokens", "ok", f"{len(in_use)} in use")
    for record in in_use:
        if _ends_soon(record, in_use, now):
            text = (
                f"{record.name} ends at {record.expires}: ledger token rotate {paths.root} "
                f"{record.name}"
            )
            yield Finding("tokens", "warning", text)


def _ends_soon(record: TokenRecord, in_use: list[TokenRecord], now: int) -> bool:
    """Whether a token ends within two weeks, and no other one of its name goes on."""
    if record.expires is None or parse_time(record.expires) - now > TOKEN_EXPIRY_WARNED_US:
        return False
    others = [each for each in in_use if each.name == record.name and each is not record]
    return all(each.expires is not None and each.expires <= record.expires for each in others)


def _check_principals(paths: DirectoryPaths) -> Iterator[Finding]:
    try:
        principals = read_usable_principals(paths.root)
    except _UNUSABLE as error:
        yield Finding("principals", "failed", f"{error}: correct the file, or ledger serve refuses")
        return
    if principals != Principals():
        text = f"{len(principals.certificates)} certificates and {len(principals.issuers)} issuers"
        yield Finding("principals", "ok", text)


def _check_limits(settings: Settings) -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.connections_max + OWN_DESCRIPTORS
    if hard not in (resource.RLIM_INFINITY, -1) and hard < wanted:
        text = (
            f"this shell may open {hard:,} files, {wanted:,} are wanted for connections_max: set "
            "LimitNOFILE of the unit, or ulimit -n"
        )
        yield Finding("limits", "warning", text)


def _check_archives(paths: DirectoryPaths) -> Iterator[Finding]:
    try:
        archives = read_archives(paths.root)
        yield from _check_released(paths, archives)
        for name in archives:
            lock = read_kept_lock(FollowerPaths(paths.root, KIND, name))
            if lock is None:
                text = f"{name} was never reached: ledger archive test {paths.root} {name}"
                yield Finding("archive", "warning", text)
            elif lock.is_safe:
                yield Finding("archive", "ok", f"{name}: {lock}")
            else:
                text = f"{name} is locked by nothing that holds: {lock}: see docs/archive.md"
                yield Finding("archive", "warning", text)
    except _UNUSABLE as error:
        yield Finding("archive", "failed", f"{error}: correct {archives_path(paths.root)}")


def _check_released(paths: DirectoryPaths, archives: Mapping[str, object]) -> Iterator[Finding]:
    """Whether the entries that left this disk can be found."""
    if not paths.log.exists():
        return  # Of a reader.
    with closing(open_log(paths.log)) as log:
        release = log.release()
        if release is None or release.end <= log.minimum_index:
            return
        if release.archive not in archives:
            text = (
                f"the entries below {release.end:,} are in the archive {release.archive!r}, which "
                f"is not in {archives_path(paths.root)}: put its table back"
            )
            yield Finding("released", "failed", text)
            return
        try:
            log.leaf(release.end - 1)
        except (UnavailableError, MalformedError) as error:
            yield Finding("released", "failed", str(error))
        else:
            text = f"the entries below {release.end:,} are read from {release.archive}"
            yield Finding("released", "ok", text)


def _check_service(paths: DirectoryPaths, address: str) -> Iterator[Finding]:
    asked = ask_service(address)
    if asked is None:
        text = f"nothing answers at {address}: ledger serve {paths.root}; or give its --url"
        yield Finding("service", "failed", text)
        return
    if asked.log.get("origin") != _own_origin(paths):
        yield Finding("service", "failed", _name_other(asked.log, address))
        return
    for reason in asked.ready.get("reasons", ()):
        yield Finding("service", "failed", _with_mend(str(reason), paths.root))
    for warning in asked.ready.get("warnings", ()):
        yield Finding("service", "warning", _with_mend(str(warning), paths.root))
    if not asked.ready.get("reasons"):
        yield Finding("service", "ok", f"answers at {address}")


def _own_origin(paths: DirectoryPaths) -> str:
    """The origin of the log of a folder, also of one that is in a bucket."""
    if paths.reader.exists():
        return log_origin(read_limited(paths.policy, POLICY_BYTES_MAX))
    with closing(open_log(paths.log)) as log:
        return log.origin()


def _name_other(answer: Mapping[str, Any], address: str) -> str:
    """What answers in place of the ledger of the folder."""
    if "origin" in answer:
        return f"another log answers at {address}: {answer['origin']}; give its --url"
    detail = f": {answer['detail']}" if "detail" in answer else ""
    return f"no ledger answers at {address}{detail}; give its --url"


def _with_mend(text: str, directory: Path) -> str:
    """The service's report on itself, with the command that shows or mends each fault."""
    mend = next((mend for word, mend in _MENDS.items() if word in text), "")
    return f"{text}: {mend.format(directory=directory)}" if mend else text
