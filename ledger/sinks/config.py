"""The sinks of a ledger: `DIR/sinks.toml`, a table for each.

    [siem]
    type = "splunk"
    url = "https://splunk.example.com:8088"
    token_file = "/etc/ledger/hec.token"

The service looks at the file once a second. No secret stands in it: `token_file` or `token_env`
says where the secret is. `ledger sink add` appends a table and `remove` cuts it out; whatever else
is in the file stays as a person wrote it.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Final, Literal, get_args
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta

from ledger.follow.tables import (
    FollowerConfig,
    add_table,
    read_table,
    read_tables,
    remove_table,
)
from ledger_client.messages import check_loopback
from ledger_core.event.model import whole_text
from ledger_core.query.parser import parse_query
from ledger_core.tlog.errors import MalformedError, UnavailableError

KIND: Final = "sinks"
"""The name of the sinks' folder, and of their row in the list of followers."""

SinkType = Literal[
    "file",
    "http",
    "splunk",
    "elastic",
    "datadog",
    "otlp",
    "syslog",
    "webhook",
    "smtp",
    "nats",
    "kafka",
]
SINK_TYPES: Final[tuple[SinkType, ...]] = get_args(SinkType)
SINKS_MAX: Final = 64
SECRET_BYTES_MAX: Final = 16_384
BATCH_EVENTS_MAX: Final = 10_000

_SUBJECT: Final = re.compile(r"[^\s.*>]+(?:\.[^\s.*>]+)*")
_TOPIC: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
_SCHEMES: Final = {
    "syslog": ("tls", "tcp"),
    "smtp": ("smtps", "smtp"),
    "nats": ("tls", "nats"),
    "kafka": ("tls", "kafka"),
}
"""The schemes of URLs: encrypted, then the other one. HTTP for all other types."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1)]


class SinkConfig(FollowerConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sink. The last annotation of each field is its help text."""

    type: Annotated[SinkType, f"What it sends to: {', '.join(SINK_TYPES)}."]
    url: Annotated[
        str,
        "Where to: https://… for HTTP, whose usual path is added if there is none; "
        "tls://host:6514 for syslog, smtps://host:465 or smtp://host:587 for SMTP, tls://host:4222 "
        "for NATS, tls://host:9093,host:9093 for Kafka.",
    ] = ""
    path: Annotated[str, "file: the file of JSON lines, an absolute path."] = ""
    query: Annotated[str, "Send only the events that this query finds. Empty: every event."] = ""
    form: Annotated[
        Literal["native", "ocsf"], "The record: native (the event as logged) or ocsf (1.8)."
    ] = "native"
    token_file: Annotated[str, "A file with the receiver's secret: token, key or password."] = ""
    token_env: Annotated[str, "The variable of the service with that secret."] = ""
    username: Annotated[
        str, "Send the secret as the password of this user: HTTP Basic, SMTP, NATS, Kafka."
    ] = ""
    credentials_file: Annotated[
        str, "nats: a file of credentials (.creds), in place of a secret."
    ] = ""
    subject: Annotated[str, "nats: the subject, which a stream of JetStream takes."] = ""
    topic: Annotated[str, "kafka: the topic; one partition keeps the order of the log."] = ""
    mechanism: Annotated[
        Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"],
        "kafka: how the user shows the password.",
    ] = "SCRAM-SHA-512"
    ca_file: Annotated[str, "PEM certificates that the receiver's must be signed by."] = ""
    client_cert: Annotated[str, "PEM certificate by which the sink shows who it is."] = ""
    client_key: Annotated[str, "Its key."] = ""
    insecure: Annotated[bool, "Send unencrypted to another host, readable on the way."] = False
    gzip: Annotated[bool, "HTTP, kafka: compress what is sent."] = False
    index: Annotated[str, "elastic: the index or data stream. splunk: the index."] = ""
    to: Annotated[tuple[str, ...], "smtp: the addresses that get the mail."] = ()
    sender: Annotated[str, "smtp: the address that it comes from."] = ""
    batch_events: Annotated[int, Meta(ge=1, le=BATCH_EVENTS_MAX), "Events in one request."] = 500
    batch_bytes: Annotated[
        int, Meta(ge=1024, le=64 << 20), "Bytes of events in one request, or one larger event."
    ] = 1 << 20
    timeout_s: Annotated[Seconds, "Seconds that the receiver has to confirm a batch."] = 30.0
    retry_max_s: Annotated[Seconds, "The longest wait after failures, in seconds."] = 60.0
    rotate_bytes: Annotated[Count, "file: begin a new file when this one is as long."] = 100 << 20
    keep_files: Annotated[
        int, Meta(ge=0), "file: rotated files that are kept; the oldest is deleted. 0: all."
    ] = 0
    file_mode: Annotated[
        str, whole_text("0[0-7]{3}"), "file: its mode; 0640 lets a shipper's group read it."
    ] = "0600"

    def check(self) -> None:
        """Check what the types don't. Raises: MalformedError naming the key."""
        if self.type == "file":
            if not Path(self.path).is_absolute():
                raise MalformedError("path: a sink of type file needs an absolute path")
        else:
            self._check_url()
        if self.type == "smtp" and not (self.to and self.sender):
            raise MalformedError("to, sender: a sink of type smtp needs both")
        if self.type == "nats" and not _SUBJECT.fullmatch(self.subject):
            raise MalformedError(
                "subject: a sink of type nats needs one, without blanks and wildcards: ledger.audit"
            )
        if self.type == "kafka":
            if not _TOPIC.fullmatch(self.topic):
                raise MalformedError(
                    "topic: a sink of type kafka needs one, of 1 to 249 of A-Z, a-z, 0-9, '.', '_' "
                    "and '-'"
                )
            if bool(self.username) != bool(self.token_file or self.token_env):
                raise MalformedError(
                    "username: a sink of type kafka takes a user, with the password in "
                    "token_file or token_env, or neither"
                )
        if self.type == "elastic" and not self.index:
            raise MalformedError("index: a sink of type elastic needs the index or data stream")
        if bool(self.client_cert) != bool(self.client_key):
            raise MalformedError("client_cert, client_key: give both or neither")
        if self.token_file and self.token_env:
            raise MalformedError("token_file, token_env: give one of them")
        try:
            parse_query(self.query)
        except ValueError as error:
            raise MalformedError(f"query: {error}") from None

    def secret(self) -> str:
        """The receiver's secret, empty for none. Raises: UnavailableError without its content."""
        if self.token_env:
            secret = os.environ.get(self.token_env, "")
        elif self.token_file:
            try:
                with Path(self.token_file).open("rb") as file:
                    secret = file.read(SECRET_BYTES_MAX).decode()
            except (OSError, UnicodeDecodeError):
                raise UnavailableError(f"token_file: {self.token_file} can't be read") from None
        else:
            return ""
        secret = secret.strip()
        if not secret or not secret.isprintable():
            where = self.token_env or self.token_file
            raise UnavailableError(f"{where}: want one line with the secret, got none or several")
        return secret

    def _check_url(self) -> None:
        allowed = _SCHEMES.get(self.type, ("https", "http"))
        try:
            addresses = broker_addresses(self.url) if self.type == "kafka" else [urlsplit(self.url)]
            _ = [address.port for address in addresses]
        except ValueError as error:  # A port or an address that is none.
            raise MalformedError(f"url: {error}") from None
        for address in addresses:
            self._check_address(address, allowed)

    def _check_address(self, parts: SplitResult, allowed: tuple[str, ...]) -> None:
        if parts.scheme not in allowed or not parts.hostname:
            raise MalformedError(f"url: want {allowed[0]}://host…, got {self.url!a}")
        if parts.username or parts.password:
            raise MalformedError("url: the secret belongs in token_file or token_env")
        # smtp:// is encrypted too, by STARTTLS.
        if parts.scheme in {"http", "tcp", "nats", "kafka"} and not self.insecure:
            try:
                check_loopback(parts.hostname, option="insecure = true")
            except ValueError:
                raise MalformedError(
                    f"url: over {parts.scheme}:// everybody on the way to {parts.hostname} can "
                    f"read what is sent: use {allowed[0]}://, or insecure = true (--insecure)"
                ) from None


def broker_addresses(url: str) -> list[SplitResult]:
    """The addresses of `tls://host:9093,host:9093`, one at least. Raises: ValueError."""
    scheme, separator, hosts = url.partition("://")
    return [urlsplit(f"{scheme}{separator}{host}") for host in hosts.split(",")]


def sinks_path(directory: Path) -> Path:
    """The file of the sinks of a ledger."""
    return directory / "sinks.toml"


def read_sinks(directory: Path) -> dict[str, SinkConfig]:
    """The sinks of a ledger, by name. Raises: MalformedError naming sink and key, OSError."""
    return read_tables(sinks_path(directory), SinkConfig, what="sink", most=SINKS_MAX)


def read_sink(directory: Path, name: str) -> SinkConfig | None:
    """One sink, None when there is none of this name. Faults of other sinks are ignored.

    Raises: MalformedError, OSError.
    """
    return read_table(sinks_path(directory), name, SinkConfig, what="sink")


def add_sink(directory: Path, name: str, config: SinkConfig) -> None:
    """Append a sink to the file. Raises: MalformedError for a bad or taken name, OSError."""
    add_table(sinks_path(directory), name, config, what="sink", most=SINKS_MAX)


def remove_sink(directory: Path, name: str) -> None:
    """Cut a sink out of the file. Raises: MalformedError when there is none, OSError."""
    remove_table(sinks_path(directory), name, SinkConfig, what="sink", most=SINKS_MAX)
