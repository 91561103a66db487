"""Real senders: util-linux's logger, rsyslog and syslog-ng, and haproxy between them and us."""

import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger.demo.child_service import Service, make_ledger
from tests.cli.test_listen import HOST, WAIT_S, Listening, events_with, texts
from tests.client.syslog.certificates import Authority
from tests.conftest import SYSLOG_NG_DIR
from tests.served import ORIGIN, ServedLedger

pytestmark = pytest.mark.peers

RSYSLOG = """
global(workDirectory="{folder}" DefaultNetstreamDriverCAFile="{ca}"
       DefaultNetstreamDriverCertFile="{certificate}" DefaultNetstreamDriverKeyFile="{key}")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{socket}" CreatePath="on")
action(type="omfwd" target="127.0.0.1" port="{port}" protocol="{protocol}"
       template="{template}" action.resumeRetryCount="-1" {more})
"""
RSYSLOG_TLS = (
    'TCP_Framing="octet-counted" StreamDriver="ossl" StreamDriverMode="1" '
    'StreamDriverAuthMode="x509/certvalid"'
)
RFC_5424 = "RSYSLOG_SyslogProtocol23Format"
FORWARDED = "RSYSLOG_ForwardFormat"
HAPROXY = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend syslog
    bind 127.0.0.2:{port}
    default_backend listener
backend listener
    source 127.0.0.3
    server one 127.0.0.1:{target} {header} check inter 100ms
"""
SYSLOG_NG = """@version: 3.35
source s {{ unix-dgram("{socket}"); }};
destination d {{ {destination} }};
log {{ source(s); destination(d); }};
"""
SYSLOG_NG_HTTP = """@version: 3.35
source s {{ unix-dgram("{socket}"); }};
rewrite r_id {{ set("$(uuid)" value("ledger.id")); }};
destination d {{ http(
  url("{url}/v1/events") method("POST")
  headers("Authorization: Bearer {token}", "Content-Type: application/json")
  batch-lines({lines}) batch-timeout(200) delimiter(",") body-prefix("[") body-suffix("]")
  body('$(format-json --scope none id=${{ledger.id}} time=${{ISODATE}} action="syslog.$FACILITY"
    outcome="unknown" actor.type="host" actor.id=$HOST actor.session=$PID source.service=$PROGRAM
    reason=$MESSAGE)'));
}};
log {{ source(s); rewrite(r_id); destination(d); }};
"""
SYSLOG_NG_TLS = (
    'syslog("127.0.0.1" port({port}) transport("tls") tls(ca-file("{ca}")'
    ' cert-file("{certificate}") key-file("{key}") peer-verify(required-trusted)));'
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedLedger]:
    directory = tmp_path_factory.mktemp("syslog") / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    with Service(directory, listen="127.0.0.1:0", flags=("--log-level", "error")) as service:
        yield ServedLedger(service.url, token, directory)


@pytest.fixture
def plain(ledger: ServedLedger, tmp_path: Path) -> Iterator[Listening]:
    listener = Listening(ledger.url, ledger, tmp_path / "spool")
    yield listener
    assert listener.end() == 0


@pytest.fixture
def encrypted(ledger: ServedLedger, tmp_path: Path, authority: Authority) -> Iterator[Listening]:
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
    ledger: ServedLedger, plain: Listening, options: tuple[str, ...], protocol: str
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


def test_an_old_line_of_logger_is_kept_whole(ledger: ServedLedger, plain: Listening) -> None:
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
    ledger: ServedLedger, local: Path, start: Callable[[], "subprocess.Popen[bytes]"], mark: str
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
    # The daemon read the year and the zone of its own clock, and its own host's name.
    assert {event.actor.id for event in events} == {socket.gethostname()}
    notes = [event.context.get("import_notes") for event in events if event.context]
    assert not any(notes)


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
    ("protocol", "template", "more"),
    [
        ("tcp", RFC_5424, 'TCP_Framing="octet-counted"'),
        ("tcp", RFC_5424, ""),
        ("tcp", RFC_5424, 'TCP_FrameDelimiter="0"'),
        ("tcp", FORWARDED, ""),
        ("udp", RFC_5424, ""),
        ("udp", FORWARDED, ""),
        ("tls", RFC_5424, RSYSLOG_TLS),
    ],
    ids=["octet counting", "lines", "NUL", "forwarded", "datagrams", "forwarded datagrams", "TLS"],
)
def test_rsyslog_is_understood(
    request: pytest.FixtureRequest,
    ledger: ServedLedger,
    authority: Authority,
    tmp_path: Path,
    protocol: str,
    template: str,
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
            template=template,
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
    ledger: ServedLedger,
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
    check_relayed(ledger, local, lambda: start_syslog_ng(configuration), secrets.token_hex(8))


def test_syslog_ng_sends_events_by_http(ledger: ServedLedger, tmp_path: Path) -> None:
    local = tmp_path / "log"
    configuration = tmp_path / "syslog-ng.conf"
    configuration.write_text(
        SYSLOG_NG_HTTP.format(socket=local, url=ledger.url, token=ledger.token, lines=20)
    )
    check_relayed(ledger, local, lambda: start_syslog_ng(configuration), secrets.token_hex(8))


def start_syslog_ng(configuration: Path) -> "subprocess.Popen[bytes]":
    """syslog-ng from its own folder, with its state beside the configuration."""
    libraries = SYSLOG_NG_DIR / "usr" / "lib" / "syslog-ng"
    command = [str(SYSLOG_NG_DIR / "usr" / "sbin" / "syslog-ng"), "--foreground", "--no-caps"]
    command += ["--cfgfile", str(configuration), "--module-path", str(libraries / "3.38")]
    for option, name in (("persist-file", "p"), ("pidfile", "pid"), ("control", "control")):
        command += [f"--{option}", str(configuration.parent / name)]
    environ = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    return subprocess.Popen(command, env=environ)


@pytest.mark.parametrize("header", ["send-proxy check-send-proxy", "send-proxy-v2"])
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_behind_haproxy_the_source_is_the_senders(
    ledger: ServedLedger, tmp_path: Path, authority: Authority, header: str, is_tls: bool
) -> None:
    certificate, key, _ = authority.issue("listener")
    tls_options = ("--tls-cert", certificate, "--tls-key", key) if is_tls else ()
    listener = Listening(
        ledger.url, ledger, tmp_path / "spool", *("--balancer", "127.0.0.3", *tls_options)
    )
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(HAPROXY.format(port=port, target=listener.tcp_port, header=header))
    mark = secrets.token_hex(8)
    frame = f"<13>1 2026-11-25T02:03:36Z web-1 app - - - {mark}".encode()
    haproxy = subprocess.Popen(["/usr/sbin/haproxy", "-q", "-db", "-f", str(configuration)])
    try:
        with _connected("127.0.0.2", port) as plain:
            context = ssl.create_default_context(cafile=authority.certificate)
            mine = plain.getsockname()[1]
            with context.wrap_socket(plain, server_hostname=HOST) if is_tls else plain as sender:
                sender.sendall(b"%d %b" % (len(frame), frame))
                (event,) = events_with(ledger, mark, 1)
    finally:
        haproxy.send_signal(signal.SIGTERM)
        haproxy.wait(WAIT_S)
    assert event.source
    assert (event.source.ip, event.source.port) == (HOST, mine)
    assert isinstance(event.context, dict)
    assert event.context["balancer"] == "127.0.0.3"
    assert listener.end() == 0


def _connected(host: str, port: int) -> socket.socket:
    """Connect, as soon as somebody accepts."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            return socket.create_connection((host, port), timeout=WAIT_S)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
