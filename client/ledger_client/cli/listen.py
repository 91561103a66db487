"""`ledger listen`: receive events from hosts that can send only their own protocol."""

import asyncio
import logging
import ssl
import sys
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final

import click

from ledger_client import Recorder
from ledger_client.cli.client_options import (
    EXISTING_FILE,
    NEW_FOLDER,
    read_token,
    required_policy_option,
    token_options,
    url_option,
    usage_errors,
)
from ledger_client.collect.syslog.listener import (
    CONNECTIONS_MAX,
    CONNECTIONS_PER_ADDRESS_MAX,
    FRAME_BYTES_MAX,
    SyslogListener,
)
from ledger_client.runtime.server import parse_listen, run_until_signal
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import printable

MIB: Final = 1024 * 1024
MESSAGE_BYTES_MIN: Final = 2048
"""The least that RFC 5425 §4.3.1 requires of a receiver."""


@click.group("listen")
def command() -> None:
    """Receive events from hosts that can send only their own protocol."""


@command.command("syslog")
@click.option(
    "--listen",
    "tcp",
    metavar="ADDRESS:PORT",
    default="127.0.0.1:6514",
    show_default=True,
    help="Where to accept TCP connections; TLS with --tls-cert.",
)
@click.option("--udp", metavar="ADDRESS:PORT", help="Accept datagrams here too; they can be lost.")
@click.option(
    "--balancer",
    "balancers",
    metavar="ADDRESS[/BITS]",
    multiple=True,
    help="A balancer in front of --listen, which begins each connection with a PROXY header "
    "(version 1 or 2); can be repeated.",
)
@click.option(
    "--tls-cert", type=EXISTING_FILE, help="The listener's certificate and its chain, PEM."
)
@click.option("--tls-key", type=EXISTING_FILE, help="The key of the certificate, PEM.")
@click.option(
    "--tls-client-ca",
    type=EXISTING_FILE,
    help="Require senders to have a certificate of these CAs.",
)
@click.option(
    "--connections-per-address",
    type=click.IntRange(1, CONNECTIONS_MAX),
    default=CONNECTIONS_PER_ADDRESS_MAX,
    show_default=True,
    help=f"Connections that one address may have open, of {CONNECTIONS_MAX} in all.",
)
@click.option(
    "--spool",
    type=NEW_FOLDER,
    required=True,
    help="A folder for messages that are not in the ledger yet, used by this process alone.",
)
@click.option(
    "--spool-max",
    "spool_mib",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="MiB in the spool at which reading stops.",
)
@click.option(
    "--fsync",
    type=click.Choice(("each", "interval", "none")),
    default="interval",
    show_default=True,
    help="When the spool is synced to the disk: after each message, each second, or never.",
)
@click.option(
    "--message-max",
    type=click.IntRange(MESSAGE_BYTES_MIN, 64 * 1024),
    default=FRAME_BYTES_MAX,
    show_default=True,
    help="Bytes of a message. A longer one is cut, and the event says so.",
)
@url_option
@token_options
@required_policy_option
def syslog(
    tcp: str,
    udp: str | None,
    balancers: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    connections_per_address: int,
    spool: Path,
    spool_mib: int,
    fsync: Any,
    message_max: int,
    url: str,
    token_file: Path | None,
    insecure: bool,
    policy: Path,
) -> None:
    """Append syslog messages (RFC 5424) from TCP or TLS, verified, until Ctrl-C or SIGTERM.

    A message is in --spool before the next one is read, so it survives a crash of this process and
    waits there while the ledger is down. docs/syslog.md says what a sender can rely on.
    """
    tls = _tls(tls_cert, tls_key, tls_client_ca)
    networks = [_network(balancer) for balancer in balancers]
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    with usage_errors():
        recorder = Recorder(
            url,
            read_token(token_file, url=url, insecure=insecure),
            policy=policy,
            spool=spool,
            spool_bytes_max=spool_mib * MIB,
            fsync=fsync,
            on_full="raise",
            on_invalid="dead-letter",
            insecure=insecure,
        )

    async def serve(stop: asyncio.Event) -> None:
        listener = SyslogListener(
            lambda event: recorder.record(**event),
            frame_bytes_max=message_max,
            connections_per_address_max=connections_per_address,
            balancers=networks,
        )
        try:
            _print_address(
                "TLS" if tls else "TCP", await listener.listen_tcp(*parse_listen(tcp), tls)
            )
            if udp is not None:
                _print_address("UDP", await listener.listen_udp(*parse_listen(udp)))
            await stop.wait()
        finally:
            await listener.close()

    with recorder:
        run_until_signal(serve)


def _print_address(protocol: str, address: tuple[str, int]) -> None:
    host, port = address
    click.echo(f"listening on {f'[{host}]' if ':' in host else host}:{port} ({protocol})")


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise click.UsageError(f"--balancer: {printable(str(error))}.") from None


def _tls(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> ssl.SSLContext | None:
    if certificate is None or key is None:
        if certificate or key or client_ca:
            raise click.UsageError("TLS needs both --tls-cert and --tls-key.")
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        raise MalformedError(f"the certificate, its key or the CAs: {error.reason}") from None
    return context
