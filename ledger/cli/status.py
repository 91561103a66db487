"""`ledger status`: show the state of a ledger on this machine, once or every two seconds."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import click

from ledger.cli.folders import LEDGER, MIRROR, READER, directory_of
from ledger.cli.local_service import Asked, ask_service, own_address
from ledger.follow.followers import FOLLOWERS
from ledger.follow.position import read_report
from ledger.mirror.data_dir import log_origin
from ledger.mirror.state import MirrorState
from ledger.object_storage.open_log import open_log
from ledger.reader.data_dir import ReaderPaths, read_config
from ledger.reader.fsck import served_head
from ledger.service.data_dir import DirectoryPaths, open_tokens, read_own_settings
from ledger.service.settings import Settings
from ledger.store.commit_errors import free_bytes
from ledger_client.cli.console import counted, format_second, json_option, print_fields, print_json
from ledger_client.runtime.clock import unix_us
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.policy import POLICY_BYTES_MAX
from ledger_core.tlog.text import format_base64

WATCH_S: Final = 2.0
_HOME: Final = "\x1b[H\x1b[2J"
_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP: Final = 1024


@click.command("status")
@directory_of(LEDGER, MIRROR, READER)
@click.option(
    "--url",
    envvar="LEDGER_URL",
    show_envvar=True,
    help="The address of its service. Default: where ledger.toml says.",
)
@click.option("--watch", is_flag=True, help="Show it again each two seconds, until Ctrl-C.")
@json_option
def command(directory: Path, url: str | None, watch: bool, as_json: bool) -> None:
    """Show size, head, witnesses, sinks, disk and lag of the ledger or mirror in DIRECTORY.

    Of a reader of an archive, show the head that it served last, and its cache.

    The folder is read, and its service is asked if one answers. Nothing is changed.
    """
    paths = DirectoryPaths(directory)
    settings = read_own_settings(paths)
    while True:
        address = url or own_address(settings)
        is_reader = paths.reader.exists()
        read = read_reader_status if is_reader else read_status
        found = read(paths, settings, address)
        if as_json:
            print_json(found)
        else:
            if watch:
                click.echo(_HOME, nl=False)
            print_fields(reader_lines(found) if is_reader else _lines(found))
        if not watch:
            return
        time.sleep(WATCH_S)


def read_status(paths: DirectoryPaths, settings: Settings, address: str) -> dict[str, Any]:
    """The state of a ledger: from its folder, and from its service if that answers."""
    with closing(open_log(paths.log, map_bytes=settings.map_bytes)) as log:
        head, published = log.head(), log.published()
        found: dict[str, Any] = {
            "origin": log.origin(),
            "tree_size": head.tree_size,
            "minimum_index": log.minimum_index,
            "released": None if (release := log.release()) is None else release._asdict(),
            "root_hash": format_base64(head.root_hash),
            "published_size": 0 if published is None else published.head.tree_size,
            "map_fill_ratio": round(log.environment.fill_ratio(), 4),
            "damaged_bundles": len(list(log.damaged_bundles())),
        }
    with closing(open_tokens(paths, settings)) as access:
        now = unix_us()
        found["tokens"] = sum(record.is_in_use(now) for record in access.records())
        found["waiting_events"] = len(access.outbox())
    found["log_bytes"] = sum(each.stat().st_size for each in paths.log.iterdir())
    found["free_bytes"] = free_bytes(paths.log)
    found["followers"] = list(_followers(paths, found["tree_size"], found["minimum_index"]))
    if paths.mirror.exists():
        state = MirrorState(paths.root / "status.json")
        found["mirror_lag_entries"] = max(0, state.status.log_size - head.tree_size)
        found["mirror_lag_s"] = state.lag_s(head.tree_size)
    found["service"] = service_state(ask_service(address), address, found["origin"])
    return found


def read_reader_status(paths: DirectoryPaths, settings: Settings, address: str) -> dict[str, Any]:
    """The state of a reader: from its folder, and from its service if that answers."""
    reader = ReaderPaths(paths.root)
    config = read_config(reader)
    origin = log_origin(read_limited(paths.policy, POLICY_BYTES_MAX))
    head = served_head(reader)
    with closing(open_tokens(paths, settings)) as access:
        tokens = sum(record.is_in_use(unix_us()) for record in access.records())
    return {
        "archive": config.url,
        "origin": origin,
        "published_size": 0 if head is None else head.tree_size,
        "root_hash": None if head is None else format_base64(head.root_hash),
        "tokens": tokens,
        "cache_bytes": sum(each.stat().st_size for each in reader.cache.glob("??/*")),
        "cache_bytes_max": config.cache_bytes,
        "free_bytes": free_bytes(paths.root),
        "service": service_state(ask_service(address), address, origin),
    }


def _followers(
    paths: DirectoryPaths, tree_size: int, minimum_index: int
) -> Iterator[dict[str, Any]]:
    """The sinks, the alarms and the archives, with how far each is."""
    for spec in FOLLOWERS:
        if not spec.file or not (paths.root / spec.file).exists():
            continue
        folder = paths.root / spec.name
        names = [""]
        if spec.is_each:
            names = sorted(each.name for each in folder.glob("*") if each.is_dir())
        for name in names:
            with suppress(MalformedError, OSError):
                report = read_report(paths.root, spec.name, name)
                yield {
                    "name": report.name,
                    "lag_entries": max(0, tree_size - max(minimum_index, report.next_index)),
                    "paused": report.is_paused,
                    "error": report.state.error or None,
                    "dead_letters": report.state.dead,
                }


def service_state(asked: Asked | None, address: str, origin: str) -> dict[str, Any]:
    if asked is None or asked.log.get("origin") != origin:
        return {"address": address, "answers": False}
    return {
        "address": address,
        "answers": True,
        "ready": not asked.ready.get("reasons"),
        "reasons": asked.ready.get("reasons", []),
        "warnings": asked.ready.get("warnings", []),
        "witnesses": asked.log.get("witnesses", []),
        "index": asked.log.get("index"),
        "clock_behind_s": asked.log.get("clock_behind_s", 0),
    }


def _lines(found: Mapping[str, Any]) -> dict[str, object]:
    service = found["service"]
    # A mirror asks no witness, and the events about its own tokens stay in its outbox.
    is_mirror = "mirror_lag_s" in found
    witnesses = () if is_mirror else service.get("witnesses", ())
    waiting = 0 if is_mirror else found["waiting_events"]
    lines: dict[str, object] = {
        "origin": found["origin"],
        "entries": f"{found['tree_size']:,}, published {found['published_size']:,}",
        "pruned": f"below index {found['minimum_index']:,}" if found["minimum_index"] else None,
        "released": _released_line(found["released"]),
        "root hash": found["root_hash"],
        "service": _service_line(service),
        "not ready": tuple(service.get("reasons", ())) or None,
        "warnings": tuple(service.get("warnings", ())) or None,
        "witnesses": tuple(map(_witness_line, witnesses)) or None,
    }
    if index := service.get("index"):
        sealed, full = index["sealed_segments"], index["full_segments"]
        lines["index"] = f"{sealed} of {full} full segments"
    lines |= {
        "followers": tuple(map(_follower_line, found["followers"])) or None,
        "tokens": f"{found['tokens']} in use",
        "outbox": f"{counted(waiting, 'event')} to be logged" if waiting else None,
        "disk": f"{_size(found['log_bytes'])} of the log, {_size(found['free_bytes'])} free, "
        f"map {found['map_fill_ratio']:.1%} full",
        "damaged": found["damaged_bundles"] or None,
    }
    if is_mirror:
        lines["mirror's lag"] = (
            f"{found['mirror_lag_entries']:,} entries, {found['mirror_lag_s']} s"
        )
    return lines


def reader_lines(found: Mapping[str, Any]) -> dict[str, object]:
    """The state of a reader as a person reads it."""
    service = found["service"]
    return {
        "reader of": found["archive"],
        "origin": found["origin"],
        "entries": f"{found['published_size']:,} in the head that was served last",
        "root hash": found["root_hash"] or "none yet",
        "service": _service_line(service),
        "not ready": tuple(service.get("reasons", ())) or None,
        "warnings": tuple(service.get("warnings", ())) or None,
        "tokens": f"{found['tokens']} in use",
        "cache": f"{_size(found['cache_bytes'])} of {_size(found['cache_bytes_max'])}, "
        f"{_size(found['free_bytes'])} free",
    }


def _released_line(released: Mapping[str, Any] | None) -> str | None:
    if released is None:
        return None
    return f"below index {released['end']:,}: in the archive {released['archive']} alone"


def _service_line(service: Mapping[str, Any]) -> str:
    if not service["answers"]:
        return f"does not answer at {service['address']}; --url names another address"
    return f"{'ready' if service['ready'] else 'NOT READY'} at {service['address']}"


def _witness_line(witness: Mapping[str, Any]) -> str:
    cosigned = witness.get("cosigned_size")
    at = witness.get("cosigned_at_unix_s")
    when = f" at {format_second(at)}" if at else ""
    state = f"cosigned {cosigned:,}{when}" if cosigned is not None else "has not cosigned"
    error = f"; {witness['error']}" if witness.get("error") else ""
    return f"{witness['name']}: {state}{error}"


def _follower_line(follower: Mapping[str, Any]) -> str:
    parts = [f"{follower['lag_entries']:,} behind"]
    if follower["paused"]:
        parts.append("paused")
    if follower["dead_letters"]:
        parts.append(f"{follower['dead_letters']:,} dead letters")
    if follower["error"]:
        parts.append(follower["error"])
    return f"{follower['name']}: {', '.join(parts)}"


def _size(count: int) -> str:
    size = float(count)
    for unit in _BYTES:
        if size < _STEP or unit == _BYTES[-1]:
            break
        size /= _STEP
    return f"{size:.0f} {unit}" if unit == _BYTES[0] else f"{size:.1f} {unit}"
