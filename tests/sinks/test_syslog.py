"""Syslog over TLS: the bytes of a message, a real rsyslog, and connections that break."""

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from ledger.follow.entries import Entry
from ledger.sinks.record import make_record
from ledger.sinks.syslog import format_message
from ledger_core.tlog.hashing import leaf_hash
from tests.client.syslog.certificates import Authority
from tests.sinks.sinking import ORIGIN, Folder, deliver, running
from tests.waiting import until

RSYSLOG = """
global(workDirectory="{folder}" DefaultNetstreamDriverCAFile="{ca}"
       DefaultNetstreamDriverCertFile="{certificate}" DefaultNetstreamDriverKeyFile="{key}"
       maxMessageSize="80k")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1"
       StreamDriver.AuthMode="x509/certvalid")
template(name="all" type="string" string="%structured-data% %msgid% %app-name% %msg%\\n")
input(type="imtcp" port="0" listenPortFileName="{folder}/port" address="127.0.0.1")
action(type="omfile" file="{folder}/out" template="all" asyncWriting="off" flushOnTXEnd="on")
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_a_message_is_of_rfc_5424() -> None:
    leaf = (
        b'{"event":{"action":"login.failed","actor":{"id":"u"},"id":"x","outcome":"failure",'
        b'"source":{"service":"my shop"},"time":"2026-11-25T02:03:36.123456Z"},'
        b'"received":{"by":"app","time":"2026-11-25T02:03:36.123456Z"},"v":1}'
    )
    record = make_record(Entry(7, leaf, leaf_hash(leaf)), 'example.com/a"b')
    message = format_message(record).decode()
    head, _, body = message.partition("] ")
    assert head == (
        "<108>1 2026-11-25T02:03:36.123456Z example.com my_shop - login.failed "
        f'[ledger@32473 index="7" leaf_hash="{record.leaf_hash}" origin="example.com/a\\"b"'
    )
    assert json.loads(body)["index"] == 7


@pytest.mark.peers
def test_rsyslog_over_tls_has_every_event(
    folder: Folder, tmp_path: Path, authority: Authority
) -> None:
    certificate, key, _ = authority.issue("rsyslog")
    mine, my_key, _ = authority.issue("sink")
    work = tmp_path / "rsyslog"
    work.mkdir()
    configuration = work / "rsyslog.conf"
    configuration.write_text(
        RSYSLOG.format(folder=work, ca=authority.certificate, certificate=certificate, key=key)
    )
    server = shutil.which("rsyslogd", path="/usr/sbin")
    assert server is not None
    process = subprocess.Popen([server, "-n", "-f", configuration, "-i", work / "pid"])
    try:
        until(lambda: (work / "port").exists() and (work / "port").read_text() != "")
        port = int((work / "port").read_text())
        folder.append(*({"reason": f"é {number} " + "x" * (number * 13)} for number in range(300)))
        folder.add(
            "syslog",
            type="syslog",
            url=f"tls://127.0.0.1:{port}",
            ca_file=str(authority.certificate),
            client_cert=str(mine),
            client_key=str(my_key),
            batch_events=100,
        )
        deliver(folder, "syslog")
        out = work / "out"
        until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 300)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    lines = out.read_text().splitlines()
    hashes = folder.leaf_hashes()
    for index, line in enumerate(lines):
        match = re.match(
            r'\[ledger@32473 index="(\d+)" leaf_hash="(\w+)" origin="(\S+)"\] \S+ \S+ (.*)',
            line,
        )
        assert match is not None, line
        assert match.groups()[:3] == (str(index), hashes[index], ORIGIN)
        assert json.loads(match[4])["event"]["reason"].startswith(f"é {index} ")


def test_a_wrong_certificate_is_refused(
    folder: Folder, tmp_path: Path, authority: Authority
) -> None:
    (tmp_path / "other").mkdir()
    certificate, key, _ = Authority(tmp_path / "other").issue("impostor")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    folder.append(count=1)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, pytest.raises(OSError, match=r"."):
                context.wrap_socket(connection, server_side=True).recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"tls://127.0.0.1:{listener.getsockname()[1]}"
        folder.add("syslog", type="syslog", url=url, ca_file=str(authority.certificate))
        with running(folder, "syslog"):
            until(lambda: "certificate verify failed" in folder.report("syslog").state.error)
        thread.join()
    assert folder.report("syslog").next_index == 0


def test_after_a_broken_connection_the_batch_before_comes_again(folder: Folder) -> None:
    folder.append(count=4)
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                data = b""
                with connection:
                    while data.count(b"leaf_hash=") < (1 if not received else 4):
                        data += connection.recv(1 << 16)
                received.append(data)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        folder.add("syslog", type="syslog", url=url, batch_events=1, retry_max_s=0.05)
        deliver(folder, "syslog")
        thread.join()
    first, second = (re.findall(rb'index="(\d+)"', data) for data in received)
    assert first[0] == b"0"
    assert set(first) | set(second) == {b"0", b"1", b"2", b"3"}
    assert second[-1] == b"3"
