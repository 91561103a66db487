"""The settings of a program, from the fields of a struct: flag, variable and help text of each."""

from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]

TlsCert = Annotated[
    str,
    "File with the certificate, and those that lead to its authority, in PEM form. Empty: no TLS. "
    "At SIGHUP it is read again with the key.",
]
TlsKey = Annotated[
    str, "File with the key of the certificate, which other users must not be able to read."
]
ConnectionsMax = Annotated[
    Count,
    "Connections that may be open; one more is closed at once. A connection takes a descriptor: "
    "1024 are usual, and the stores need some.",
]
ConnectionsPerAddressMax = Annotated[
    Count,
    "Connections that one address, or one /64 of IPv6, may have open. A reverse proxy is one "
    "address.",
]
HeadWait = Annotated[
    Seconds, "Seconds in which the head of a request must have arrived, from its first byte on."
]
BodyWait = Annotated[Seconds, "Seconds in which the body of a request must have arrived."]
ReaderWait = Annotated[
    Seconds,
    "Seconds for which an answer waits for its reader to accept more bytes, before it is cut.",
]
StopWait = Annotated[Seconds, "Seconds that requests in flight have to finish at a stop."]


class Setting(NamedTuple):
    """One row of the table: how it is called, what it takes, what it is for."""

    name: str
    variable: str
    type: type
    default: Any
    help: str

    @property
    def flag(self) -> str:
        """`--publish-interval-s`."""
        return f"--{self.name.replace('_', '-')}"


def settings_of(struct: type[msgspec.Struct], variable_prefix: str) -> tuple[Setting, ...]:
    """The rows of a struct, whose fields are annotated with limits and, last, their help text."""
    return tuple(
        Setting(
            field.name,
            f"{variable_prefix}{field.name.upper()}",
            field.type.__origin__,
            field.default,
            field.type.__metadata__[-1],
        )
        for field in msgspec.structs.fields(struct)
    )
