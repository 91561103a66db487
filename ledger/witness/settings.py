"""The settings of a witness: a flag of `ledger witness serve`, or a variable.

The flags, the variables `LEDGER_WITNESS_…` and the table in the documentation come from here.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ledger.runtime.settings_table import (
    BodyWait,
    ConnectionsMax,
    ConnectionsPerAddressMax,
    HeadWait,
    ReaderWait,
    Seconds,
    StopWait,
    TlsCert,
    TlsKey,
    settings_of,
)
from ledger.store.environment import MAP_BYTES_DEFAULT

VARIABLE_PREFIX: Final = "LEDGER_WITNESS_"


class WitnessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a witness, as the service of a ledger has them."""

    listen: Annotated[
        str, "Address and port to serve on; port 0 takes a free one. IPv6 as [::1]:8766."
    ] = "127.0.0.1:8766"
    tls_cert: TlsCert = ""
    tls_key: TlsKey = ""
    map_bytes: Annotated[
        int,
        Meta(ge=1 << 16),
        "Address space for the heads, their largest size; disk is taken as needed.",
    ] = MAP_BYTES_DEFAULT
    log_list: Annotated[
        str,
        "File, or https address, of a list of logs to cosign (logs/v0): its new logs are added at "
        "the start and at each interval, none is removed.",
    ] = ""
    log_list_interval_s: Annotated[Seconds, "Seconds between two readings of that list."] = 3_600.0
    bastion: Annotated[
        str,
        "Bastions to be reached by, host:port, several with commas between: for a witness that no "
        "log can connect to. The port is 443 if none is given.",
    ] = ""
    bastion_ca_file: Annotated[
        str, "PEM certificates that a bastion's must be signed by. Empty: those of the system."
    ] = ""
    connections_max: ConnectionsMax = 512
    connections_per_address_max: ConnectionsPerAddressMax = 64
    head_wait_s: HeadWait = 10.0
    body_wait_s: BodyWait = 10.0
    reader_wait_s: ReaderWait = 30.0
    stop_wait_s: StopWait = 10.0


WITNESS_SETTINGS: Final = settings_of(WitnessSettings, VARIABLE_PREFIX)
