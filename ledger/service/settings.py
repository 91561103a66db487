"""Every setting of the service, in one table.

The flags of `ledger serve`, the variables `LEDGER_…`, the keys of `DIR/ledger.toml` and the page of
the documentation all come from the fields of `Settings`; a flag wins over a variable, a variable
over the file.
"""

import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from ledger.log.publisher import HEARTBEAT_S, INTERVAL_S
from ledger.log.sequencer import LIMITS
from ledger.log.witness_client import TIMEOUT_S
from ledger.runtime.settings_table import (
    BodyWait,
    ConnectionsMax,
    ConnectionsPerAddressMax,
    Count,
    HeadWait,
    ReaderWait,
    Seconds,
    StopWait,
    TlsCert,
    TlsKey,
    settings_of,
)
from ledger.runtime.validation import explain_invalid
from ledger.store.environment import MAP_BYTES_DEFAULT
from ledger.store.erasable_values import MAP_BYTES as PRIVATE_MAP_BYTES
from ledger.store.tokens import MAP_BYTES as ACCESS_MAP_BYTES
from ledger_client.runtime.server import parse_listen
from ledger_core.event.model import whole_text
from ledger_core.tlog.errors import MalformedError
from ledger_core.toml import parse_toml

VARIABLE_PREFIX: Final = "LEDGER_"
WORKERS_MAX: Final = 64


Limit = Annotated[int, Meta(ge=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a service. Every default suits a first try on one machine."""

    listen: Annotated[
        str, "Address and port to serve on; port 0 takes a free one. IPv6 as [::1]:8765."
    ] = "127.0.0.1:8765"
    tls_cert: TlsCert = ""
    tls_key: TlsKey = ""
    tls_client_ca: Annotated[
        str,
        "File with the authorities whose certificates clients may show, and their revocation "
        "lists, in PEM form: principals.toml says what each may do. Read again at SIGHUP.",
    ] = ""
    workers: Annotated[
        int,
        Meta(ge=-1, le=WORKERS_MAX),
        "Processes that answer requests beside the one that orders events; 0: one process does "
        "both; -1: chosen from the cores: 0 on one, 2 on two, of more one fewer than there are, 8 "
        "at most.",
    ] = -1
    publish_interval_s: Annotated[
        Seconds, Meta(le=3600), "Seconds between published checkpoints while events come in."
    ] = INTERVAL_S
    heartbeat_interval_s: Annotated[
        Seconds, "Seconds after which an unchanged head is cosigned anew."
    ] = HEARTBEAT_S
    witness_timeout_s: Annotated[Seconds, Meta(le=600), "Seconds that a witness has to answer."] = (
        TIMEOUT_S
    )
    witness_intervals_s: Annotated[
        str,
        "Seconds between two requests to a witness, by its name in the policy, for those that "
        "allow few: w3=600,w4=3600. The others are asked for each head.",
    ] = ""
    public_entries: Annotated[
        bool, "Let everybody read events and entry bundles, without a token."
    ] = False
    secrets: Annotated[
        str,
        whole_text("refuse|mask|off"),
        "An event that holds a secret is refused (refuse), logged without it (mask), or not "
        "scanned (off).",
    ] = "refuse"
    marker_file: Annotated[
        str,
        "File that keeps the head published last, to notice that an old copy of the ledger was put "
        "back; on another disk it notices most. Empty: DIR/published.",
    ] = ""
    free_bytes_min: Annotated[
        Count, "Bytes that should be free on the disk; below that, `/readyz` warns."
    ] = 1 << 30
    map_bytes: Annotated[
        int,
        Meta(ge=1 << 16),
        "Address space for the log, its largest size; disk is taken as needed.",
    ] = MAP_BYTES_DEFAULT
    access_map_bytes: Annotated[
        int,
        Meta(ge=1 << 16),
        "The same for tokens. Set it in ledger.toml, which the command line reads too.",
    ] = ACCESS_MAP_BYTES
    private_map_bytes: Annotated[
        int, Meta(ge=1 << 16), "The same for private values. Set it in ledger.toml."
    ] = PRIVATE_MAP_BYTES
    request_events_max: Annotated[Count, Meta(le=10_000), "Events in one request."] = 10_000
    request_bytes_max: Annotated[Count, Meta(le=1 << 30), "Bytes in the body of one request."] = (
        32 << 20
    )
    in_flight_bytes_max: Annotated[
        Count,
        "Bytes of bodies, and of unread answers, that may be in memory, a quarter of them by "
        "callers without a token; beyond that, 503.",
    ] = 256 << 20
    in_flight_bytes_per_token_max: Annotated[Count, "The same for one token."] = 64 << 20
    requests_per_token_max: Annotated[
        Count,
        "Requests of one token, or of one address without a token, that are answered at once; "
        "beyond that, 503.",
    ] = 256
    token_requests_per_minute_max: Annotated[
        Limit,
        "Requests that each token may make in a minute; beyond that, 429. 0: no limit. "
        "`ledger token create` sets another limit for one token.",
    ] = 0
    token_bytes_per_minute_max: Annotated[Limit, "The same in bytes of bodies and answers."] = 0
    token_stored_bytes_per_day_max: Annotated[
        Limit,
        "The same in bytes of new leaves and private values, for a day; beyond that, no appends, "
        "saved queries or evidence, and with `audit_reads` no reads that are logged.",
    ] = 0
    connections_max: ConnectionsMax = 2048
    connections_per_address_max: ConnectionsPerAddressMax = 512
    head_wait_s: HeadWait = 10.0
    large_appends_max: Annotated[
        Count,
        "Appends of over 16 KiB that are in work at once, from decoding until they are durable. "
        "Small ones pass them.",
    ] = 4
    append_wait_s: Annotated[
        Seconds, "Seconds that a large append waits for its turn; beyond that, 503."
    ] = 10.0
    body_wait_s: BodyWait = 60.0
    waiting_events_max: Annotated[
        Count, "Events that may wait for the disk; beyond that, 503 and Retry-After."
    ] = LIMITS.waiting_max
    waiting_bytes_max: Annotated[
        Count, "Bytes that may wait for the disk; beyond that, 503 and Retry-After."
    ] = LIMITS.waiting_bytes_max
    witnessed_wait_s: Annotated[
        Seconds, "Seconds that an append with wait=witnessed waits at most."
    ] = 10.0
    published_wait_s: Annotated[
        Seconds, "Seconds that a proof waits for the checkpoint that it needs."
    ] = 5.0
    query_process: Annotated[
        bool,
        "Run searches in a process of their own, so that they take no time from appends; false: on "
        "threads of the service.",
    ] = True
    query_threads: Annotated[Count, Meta(le=64), "Searches that run at once, each on a thread."] = 4
    query_waiting_max: Annotated[
        Count,
        "Searches that may wait for a thread; beyond that, 503. Callers without a token have a "
        "quarter as many places, beside these.",
    ] = 64
    query_time_s: Annotated[
        Seconds, "Seconds after which a search answers with what it has found."
    ] = 5.0
    query_rows_max: Annotated[
        Count,
        "Events that a search reads, where the index alone can't decide, before it answers with "
        "what it has found.",
    ] = 200_000
    parquet: Annotated[
        bool,
        "Keep each full segment of 65,536 events as Parquet too, for `ledger sql`. Needs the extra "
        "sql of the client, which brings DuckDB.",
    ] = False
    audit_reads: Annotated[
        float,
        Meta(ge=0, le=1),
        "Part of the reads that are logged as events, `ledger.read.*`: 1 for all, 0 for none.",
    ] = 0.0
    audit_refusals: Annotated[
        bool, "Log refused requests, starts and new settings as events, `ledger.refused` and such."
    ] = False
    access_log: Annotated[
        bool,
        "Write a log line for each request: method, route, status, token, address, bytes and time.",
    ] = False
    traces_url: Annotated[
        str,
        "Address that takes OTLP/HTTP traces as JSON: http://127.0.0.1:4318/v1/traces. A span for "
        "each request that uses a token, without any content. Empty: none.",
    ] = ""
    traces_ratio: Annotated[
        float,
        Meta(ge=0, le=1),
        "Part of the requests without a traceparent header that have a trace of their own: 1 for "
        "all.",
    ] = 1.0
    streams_max: Annotated[
        Count,
        "Live streams that may be open, a quarter of them by one token and half by the tokens of "
        "one tenant; beyond that, 503.",
    ] = 100
    stream_heartbeat_s: Annotated[
        Seconds, Meta(le=30), "Seconds of silence after which a stream says where it is."
    ] = 15.0
    reader_wait_s: ReaderWait = 60.0
    clock_ahead_max_s: Annotated[
        Limit,
        "Seconds by which now may be after the last entry at a start: a clock that is set years "
        "ahead would leave all later entries with the time of the first of them.",
    ] = 90 * 86_400
    clock_behind_max_s: Annotated[
        Limit, "Seconds by which now may be before the last entry at a start."
    ] = 3_600
    outbox_interval_s: Annotated[
        Seconds, "Seconds between polls of the outbox that the command line fills."
    ] = 1.0
    stop_wait_s: StopWait = 10.0


SETTINGS: Final = settings_of(Settings, VARIABLE_PREFIX)

RELOADED: Final = frozenset(
    {
        *("tls_cert", "tls_key", "tls_client_ca"),
        *("public_entries", "request_events_max", "request_bytes_max"),
        *("in_flight_bytes_max", "in_flight_bytes_per_token_max", "requests_per_token_max"),
        *("token_requests_per_minute_max", "token_bytes_per_minute_max"),
        *("token_stored_bytes_per_day_max", "connections_max", "connections_per_address_max"),
        *("head_wait_s", "body_wait_s", "reader_wait_s", "witnessed_wait_s", "published_wait_s"),
        *("stream_heartbeat_s", "audit_reads", "audit_refusals", "access_log"),
        *("traces_url", "traces_ratio"),
    }
)
"""The settings that a running service takes anew at SIGHUP; the others hold until it ends."""


def read_settings(
    *,
    toml: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings from the text of ledger.toml, the environment and the flags that were given.

    A flag that is None was not given. Raises: MalformedError naming what is wrong.
    """
    chosen: dict[str, Any] = {}
    if toml is not None:
        try:
            chosen.update(parse_toml(toml))
        except tomllib.TOMLDecodeError as error:
            raise MalformedError(f"ledger.toml: {error}") from None
        _convert(chosen, "ledger.toml", strict=True)
    for setting in SETTINGS:
        text = (environ or {}).get(setting.variable)
        if text is not None:
            _convert({setting.name: text}, setting.variable, strict=False)
            chosen[setting.name] = text
        flag = (flags or {}).get(setting.name)
        if flag is not None:
            _convert({setting.name: flag}, setting.flag, strict=False)
            chosen[setting.name] = flag
    settings = _convert(chosen, "settings", strict=False)
    parse_listen(settings.listen)
    _check_url("traces_url", settings.traces_url)
    return settings


def _check_url(name: str, url: str) -> None:
    """Raises: MalformedError, which does not quote the address: it may have a password."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        is_fit = parts.scheme in ("http", "https") and parts.hostname and parts.username is None
    except ValueError:
        is_fit = False
    if not is_fit:
        raise MalformedError(f"{name}: want http://HOST:PORT/PATH or https://, without a password")


def settings_template() -> str:
    """The text of a new ledger.toml: every setting with its default, commented out."""
    lines = ["# Settings of this ledger. A flag or a variable LEDGER_… wins over this file.\n"]
    for setting in SETTINGS:
        value = msgspec.json.encode(setting.default).decode()
        lines.append(f"\n# {setting.help}\n# {setting.name} = {value}\n")
    return "".join(lines)


def _convert(values: Mapping[str, Any], source: str, *, strict: bool) -> Settings:
    try:
        return msgspec.convert(values, Settings, strict=strict)
    except msgspec.ValidationError as error:
        reason = explain_invalid(error, Settings)
        if source.startswith(("--", VARIABLE_PREFIX)):
            # The flag or the variable names the key already.
            reason = reason.removeprefix(f"{next(iter(values))}: ")
        raise MalformedError(f"{source}: {reason}") from None
