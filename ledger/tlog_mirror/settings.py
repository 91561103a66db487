"""The settings of a mirror of logs: a flag of `ledger tlog-mirror serve`, or a variable.

The flags, the variables `LEDGER_TLOG_MIRROR_…` and the table in the documentation come from here.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ledger.runtime.settings_table import (
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
from ledger.store.environment import MAP_BYTES_DEFAULT

VARIABLE_PREFIX: Final = "LEDGER_TLOG_MIRROR_"


class TlogMirrorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a mirror of logs."""

    listen: Annotated[
        str, "Address and port to serve on; port 0 takes a free one. IPv6 as [::1]:8767."
    ] = "127.0.0.1:8767"
    tls_cert: TlsCert = ""
    tls_key: TlsKey = ""
    log_bytes_max: Annotated[
        int,
        Meta(ge=1 << 20),
        "Disk that the copy of one log may take. One that is full takes no entries, and the others "
        "go on.",
    ] = MAP_BYTES_DEFAULT
    uploads_max: Annotated[
        Count,
        "Uploads that may run at once; each takes a few MB of memory, and up to 70 MB with entries "
        "of 64 kB. One more is asked to come again.",
    ] = 8
    uploads_per_address_max: Annotated[
        Count, "Uploads that one address may have at once. A reverse proxy is one address."
    ] = 4
    package_wait_s: Annotated[
        Seconds,
        "Seconds in which the next 256 entries of an upload must have arrived; what came before is "
        "kept.",
    ] = 30.0
    connections_max: ConnectionsMax = 512
    connections_per_address_max: ConnectionsPerAddressMax = 64
    head_wait_s: HeadWait = 10.0
    body_wait_s: Annotated[
        Seconds,
        "Seconds in which the body of a request other than an upload must have arrived.",
    ] = 10.0
    reader_wait_s: ReaderWait = 30.0
    stop_wait_s: StopWait = 10.0


TLOG_MIRROR_SETTINGS: Final = settings_of(TlogMirrorSettings, VARIABLE_PREFIX)
