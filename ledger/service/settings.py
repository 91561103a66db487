"""Every setting of the service, in one table.

The flags of `ledger serve`, the variables `LEDGER_…`, the keys of `DIR/ledger.toml` and the page of
the documentation all come from the fields of `Settings`; a flag wins over a variable, a variable
over the file.
"""

import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from ledger.log.publisher import HEARTBEAT_S, INTERVAL_S
from ledger.log.sequencer import WAITING_BYTES_MAX, WAITING_EVENTS_MAX
from ledger.log.witness_client import TIMEOUT_S
from ledger.store.environment import MAP_BYTES_DEFAULT
from ledger_client.runtime.server import parse_listen
from ledger_core.tlog.errors import MalformedError

VARIABLE_PREFIX: Final = "LEDGER_"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set; every value has a default that suits a first try on one machine."""

    listen: Annotated[
        str,
        Meta(
            description="Address and port to serve on; port 0 takes a free one. IPv6 as [::1]:8765."
        ),
    ] = "127.0.0.1:8765"
    publish_interval_s: Annotated[
        float,
        Meta(
            description="Seconds between published checkpoints while events come in.", gt=0, le=3600
        ),
    ] = INTERVAL_S
    heartbeat_interval_s: Annotated[
        float,
        Meta(description="Seconds after which an unchanged head is cosigned anew.", gt=0),
    ] = HEARTBEAT_S
    witness_timeout_s: Annotated[
        float, Meta(description="Seconds that a witness has to answer.", gt=0, le=600)
    ] = TIMEOUT_S
    public_entries: Annotated[
        bool, Meta(description="Let everybody read events and entry bundles, without a token.")
    ] = False
    secrets: Annotated[
        str,
        Meta(
            description="An event that holds a secret is refused (refuse), logged without it "
            "(mask), or not scanned (off).",
            pattern="^(refuse|mask|off)$",
        ),
    ] = "refuse"
    map_bytes: Annotated[
        int,
        Meta(
            description="Address space for the log, its largest size; disk is taken as needed.",
            ge=1 << 16,
        ),
    ] = MAP_BYTES_DEFAULT
    request_events_max: Annotated[
        int, Meta(description="Events in one request.", ge=1, le=10_000)
    ] = 10_000
    request_bytes_max: Annotated[
        int, Meta(description="Bytes in the body of one request.", ge=1, le=1 << 30)
    ] = 32 << 20
    connections_max: Annotated[
        int,
        Meta(description="Connections that may be open; one more is closed at once.", ge=1),
    ] = 2048
    connections_per_address_max: Annotated[
        int,
        Meta(
            description="Connections that one address may have open. A reverse proxy is one "
            "address.",
            ge=1,
        ),
    ] = 512
    body_wait_s: Annotated[
        float, Meta(description="Seconds in which the body of a request must have arrived.", gt=0)
    ] = 60.0
    waiting_events_max: Annotated[
        int,
        Meta(
            description="Events that may wait for the disk; beyond that, 503 and Retry-After.", ge=1
        ),
    ] = WAITING_EVENTS_MAX
    waiting_bytes_max: Annotated[
        int,
        Meta(
            description="Bytes that may wait for the disk; beyond that, 503 and Retry-After.", ge=1
        ),
    ] = WAITING_BYTES_MAX
    witnessed_wait_s: Annotated[
        float, Meta(description="Seconds that an append with wait=witnessed waits at most.", gt=0)
    ] = 10.0
    published_wait_s: Annotated[
        float,
        Meta(description="Seconds that a proof waits for the checkpoint that it needs.", gt=0),
    ] = 5.0
    query_threads: Annotated[
        int, Meta(description="Searches that run at once, each on a thread.", ge=1, le=64)
    ] = 4
    query_waiting_max: Annotated[
        int,
        Meta(description="Searches that may wait for a thread; beyond that, 503.", ge=1),
    ] = 64
    query_time_s: Annotated[
        float,
        Meta(description="Seconds after which a search answers with what it has found.", gt=0),
    ] = 5.0
    query_rows_max: Annotated[
        int,
        Meta(
            description="Events that a search reads, where the index alone can't decide, before it "
            "answers with what it has found.",
            ge=1,
        ),
    ] = 200_000
    streams_max: Annotated[
        int, Meta(description="Live streams that may be open; beyond that, 503.", ge=1)
    ] = 100
    stream_heartbeat_s: Annotated[
        float,
        Meta(description="Seconds of silence after which a stream says where it is.", gt=0, le=30),
    ] = 15.0
    reader_wait_s: Annotated[
        float,
        Meta(
            description="Seconds for which an answer waits for its reader to accept more bytes, "
            "before it is cut.",
            gt=0,
        ),
    ] = 60.0
    outbox_interval_s: Annotated[
        float,
        Meta(
            description="Seconds between polls of the outbox that the command line fills.",
            gt=0,
        ),
    ] = 1.0
    stop_wait_s: Annotated[
        float, Meta(description="Seconds that requests in flight have to finish at a stop.", gt=0)
    ] = 10.0


class Setting(NamedTuple):
    """One row of the table: how it is called, what it takes, what it is for."""

    name: str
    type: type
    default: Any
    help: str

    @property
    def flag(self) -> str:
        """`--publish-interval-s`."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """`LEDGER_PUBLISH_INTERVAL_S`."""
        return f"{VARIABLE_PREFIX}{self.name.upper()}"


def _settings() -> tuple[Setting, ...]:
    rows = []
    for field in msgspec.structs.fields(Settings):
        kind, meta = field.type.__origin__, field.type.__metadata__[0]
        rows.append(Setting(field.name, kind, field.default, meta.description))
    return tuple(rows)


SETTINGS: Final = _settings()


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
            chosen.update(tomllib.loads(toml))
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
    return settings


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
        raise MalformedError(f"{source}: {error}") from None
