"""Senders that people have: util-linux's logger, rsyslog and syslog-ng, each in all its ways."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger.demo.child_service import Service, make_ledger
from tests.cli.conftest import ORIGIN, Ledger
from tests.cli.test_listen import HOST, WAIT_S, Listening, events_with, texts
from tests.client.syslog.certificates import Authority
from tests.conftest import SYSLOG_NG_DIR

pytestmark = pytest.mark.peers

RSYSLOG = """
global(workDirectory="{folder}" DefaultNetstreamDriverCAFile="{ca}"
       DefaultNetstreamDriverCertFile="{certificate}" DefaultNetstreamDriverKeyFile="{key}")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{socket}" CreatePath="on")
action(type="omfwd" target="127.0.0.1" port="{port}" protocol="{protocol}"
       template="RSYSLOG_SyslogProtocol23Format" action.resumeRetryCount="-1" {more})
"""
RSYSLOG_TLS = (
    'TCP_Framing="octet-counted" StreamDriver="ossl" StreamDriverMode="1" '
    'StreamDriverAuthMode="x509/certvalid"'
)
SYSLOG_NG = """@version: 3.35
source s {{ unix-dgram("{socket}"); }};
destination d {{ {destination} }};
log {{ source(s); destination(d); }};
"""
SYSLOG_NG_TLS = (
    'syslog("127.0.0.1" port({port}) transport("tls") tls(ca-file("{ca}")'
    ' cert-file("{certificate}") key-file("{key}") peer-verify(required-trusted)));'
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    directory = tmp_path_factory.mktemp("syslog") / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    with Service(directory, listen="127.0.0.1:0", flags=("--log-level", "error")) as service:
        yield Ledger(directory, service.url, token)


@pytest.fixture
def plain(ledger: Ledger, tmp_path: Path) -> Iterator[Listening]:
    listener = Listening(ledger.url, ledger, tmp_path / "spool")
    yield listener
    assert listener.end() == 0


@pytest.fixture
def encrypted(ledger: Ledger, tmp_path: Path, authority: Authority) -> Iterator[Listening]:
    certificate, key, _ = authority.issue("listener")
    listener = Listening(
        ledger.url,
        ledger,
        tmp_path / "spool",
        *("--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", authority.certificate),
    )
    yield listener
    assert listener.end() == 0


@pytest.mark.parametrize(
    ("options", "protocol"),
    [
        (("--tcp", "--rfc5424", "--octet-count"), "tcp"),
        (("--tcp", "--rfc5424"), "tcp"),
        (("--udp", "--rfc5424"), "udp"),
    ],
)
def test_logger_is_understood(
    ledger: Ledger, plain: Listening, options: tuple[str, ...], protocol: str
) -> None:
    mark = secrets.token_hex(8)
    port = plain.tcp_port if protocol == "tcp" else plain.udp_port
    structured = ("--msgid", "LOGIN", "--sd-id", "who@1", "--sd-param", 'user="jo"')
    about = ("-p", "authpriv.warning", "-t", "app", "--id=77", *structured)
    subprocess.run(
        ["logger", *options, "-n", HOST, "-P", str(port), *about, f'{mark} Grüße, ] " und \\'],
        check=True,
        timeout=WAIT_S,
    )
    (event,) = events_with(ledger, mark, 1)
    assert event.reason == f'{mark} Grüße, ] " und \\'
    assert event.action == "syslog.authpriv.LOGIN"
    assert event.actor.id == socket.gethostname()
    assert (event.actor.session, event.source.service) == ("77", "app")  # type: ignore[union-attr] # a source is there
    context = event.context
    assert isinstance(context, dict)
    assert context["severity"] == "warning"
    assert context["structured_data"]["who@1"] == {"user": "jo"}
    assert "import_notes" not in context


def test_an_old_line_of_logger_is_kept_whole(ledger: Ledger, plain: Listening) -> None:
    mark = secrets.token_hex(8)
    subprocess.run(
        ["logger", "--tcp", "--rfc3164", "-n", HOST, "-P", str(plain.tcp_port), mark],
        check=True,
        timeout=WAIT_S,
    )
    (event,) = events_with(ledger, mark, 1)
    assert str(event.reason).startswith("<13>")
    assert isinstance(event.context, dict)
    assert "message: not RFC 5424, so it is kept whole" in event.context["import_notes"]


def check_relayed(
    ledger: Ledger, local: Path, start: Callable[[], "subprocess.Popen[bytes]"], mark: str
) -> None:
    """Write to a daemon's socket, and find each message in the ledger, in order."""
    sent = [f"{mark} {number} [x] {'y' * (number * 20)}" for number in range(50)]
    daemon = start()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
            for text in sent:
                _write(writer, local, f"<86>Nov 25 02:03:36 app[77]: {text}".encode())
            events = events_with(ledger, mark, len(sent))
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(WAIT_S)
    # rsyslog leaves the space in that stands behind the tag of the older format.
    assert [text.removeprefix(" ") for text in texts(events)] == sent
    assert {event.action for event in events} == {"syslog.authpriv"}
    assert {event.actor.session for event in events} == {"77"}


def _write(writer: socket.socket, local: Path, data: bytes) -> None:
    """Write, as soon as the daemon has made its socket."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            writer.sendto(data, str(local))
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize(
    ("protocol", "more"),
    [("tcp", 'TCP_Framing="octet-counted"'), ("tcp", ""), ("udp", ""), ("tls", RSYSLOG_TLS)],
    ids=["octet counting", "lines", "datagrams", "TLS"],
)
def test_rsyslog_is_understood(
    request: pytest.FixtureRequest,
    ledger: Ledger,
    authority: Authority,
    tmp_path: Path,
    protocol: str,
    more: str,
) -> None:
    listener: Listening = request.getfixturevalue("encrypted" if protocol == "tls" else "plain")
    certificate, key, _ = authority.issue("rsyslog")
    local = tmp_path / "log"
    configuration = tmp_path / "rsyslog.conf"
    configuration.write_text(
        RSYSLOG.format(
            folder=tmp_path,
            ca=authority.certificate,
            certificate=certificate,
            key=key,
            socket=local,
            port=listener.udp_port if protocol == "udp" else listener.tcp_port,
            protocol="udp" if protocol == "udp" else "tcp",
            more=more,
        )
    )
    command = ["/usr/sbin/rsyslogd", "-n", "-iNONE", "-f", str(configuration)]
    check_relayed(ledger, local, lambda: subprocess.Popen(command), secrets.token_hex(8))


@pytest.mark.parametrize(
    ("protocol", "destination"),
    [
        ("tcp", 'syslog("127.0.0.1" port({port}) transport("tcp"));'),
        ("tcp", 'network("127.0.0.1" port({port}) transport("tcp") flags(syslog-protocol));'),
        ("tls", SYSLOG_NG_TLS),
    ],
    ids=["octet counting", "lines", "TLS"],
)
def test_syslog_ng_is_understood(
    request: pytest.FixtureRequest,
    ledger: Ledger,
    authority: Authority,
    tmp_path: Path,
    protocol: str,
    destination: str,
) -> None:
    listener: Listening = request.getfixturevalue("encrypted" if protocol == "tls" else "plain")
    certificate, key, _ = authority.issue("syslog-ng")
    local = tmp_path / "log"
    configuration = tmp_path / "syslog-ng.conf"
    made = destination.format(
        port=listener.tcp_port, ca=authority.certificate, certificate=certificate, key=key
    )
    configuration.write_text(SYSLOG_NG.format(socket=local, destination=made))
    libraries = SYSLOG_NG_DIR / "usr" / "lib" / "syslog-ng"
    command = [str(SYSLOG_NG_DIR / "usr" / "sbin" / "syslog-ng"), "--foreground", "--no-caps"]
    command += ["--cfgfile", str(configuration), "--module-path", str(libraries / "3.38")]
    for option, name in (("persist-file", "p"), ("pidfile", "pid"), ("control", "control")):
        command += [f"--{option}", str(tmp_path / name)]
    environ = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    check_relayed(
        ledger, local, lambda: subprocess.Popen(command, env=environ), secrets.token_hex(8)
    )
