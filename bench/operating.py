"""Measures what operating costs appends: TLS, limits, audited reads, the access log and metrics.

Each variant is a service of its own. All of them stay open and take turns, so that other load on
the machine falls on each alike. A reader asks for a page ten times a second in every variant, and a
scraper for the metrics once a second in those with metrics. The figures are the rate of single
events over 32 connections, and the processor time of the service for each.
"""

import datetime as dt
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from statistics import median
from typing import Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from bench.append import ORIGIN, QUIET, load
from bench.rows import Row
from ledger.demo.child_service import Service, make_ledger
from ledger.service.token_admin import make_token

CONNECTIONS: Final = "32"
ROUNDS: Final = 5
READS_PER_S: Final = 10
RATIO_REACH: Final = 0.95
LIMITS: Final = ("--token-requests-per-minute-max", "10000000", "--token-bytes-per-minute-max")
VARIANTS: Final[Mapping[str, tuple[str, ...]]] = {
    "plain": (),
    "TLS": ("--tls-cert", "{certificate}", "--tls-key", "{certificate}"),
    "limits": (*LIMITS, "10000000000"),
    "audited reads": ("--audit-reads", "1"),
    "access log": ("--access-log",),
    "metrics": (),
}
APART: Final = ("plain", "access log")
TOGETHER: Final = "TLS, limits, audited reads and metrics"


def run(folder: Path, *, seconds: float) -> list[Row]:
    """Measure on new ledgers in `folder`; `seconds` for each span."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate = folder / "certificate.pem"
    _make_certificate(certificate)
    together = tuple(
        flag for name, flags in VARIANTS.items() if name not in APART for flag in flags
    )
    with ExitStack() as stack:
        served = {
            name: stack.enter_context(_served(folder, name, flags, certificate))
            for name, flags in {**VARIANTS, TOGETHER: together}.items()
        }
        spans: dict[str, list[tuple[float, float]]] = {name: [] for name in served}
        for is_measured in (False, *[True] * ROUNDS):
            for name, (service, token, reader) in served.items():
                with _asking(
                    service.url, reader, certificate, is_scraped=name in {"metrics", TOGETHER}
                ):
                    span = _span(service, token, certificate, seconds if is_measured else 1.0)
                if is_measured:
                    spans[name].append(span)
    rows = []
    plain_rate, plain_us = (median(each) for each in zip(*spans["plain"], strict=True))
    for name, found in spans.items():
        rate, cost_us = (median(each) for each in zip(*found, strict=True))
        rows.append(Row(f"single events, {name}", rate, "events/s"))
        rows.append(Row(f"processor time of the service, {name}", cost_us, "µs"))
        if name != "plain":
            reach = RATIO_REACH if name == TOGETHER else None
            rows.append(Row(f"rate with {name}, of plain", rate / plain_rate, "", reach))
            rows.append(Row(f"processor time with {name}, of plain", cost_us / plain_us, ""))
    return rows


@contextmanager
def _served(
    folder: Path, name: str, flags: tuple[str, ...], certificate: Path
) -> Iterator[tuple[Service, str, str]]:
    """A service, a token that appends, and one that reads."""
    directory = folder / name.replace(" ", "-").replace(",", "")
    token = make_ledger(directory, origin=ORIGIN)
    reader = make_token(directory, name="reader", scopes=("read", "metrics"), tenant=None)
    own = tuple(flag.format(certificate=certificate) for flag in flags)
    service = Service(
        directory,
        listen="127.0.0.1:0",
        # The access log is of the level `info`; it goes where nobody reads it.
        flags=(*(() if "--access-log" in own else QUIET), "--workers", "0", *own),
        stderr=subprocess.DEVNULL,
    )
    with service:
        yield service, token, reader


def _span(service: Service, token: str, certificate: Path, seconds: float) -> tuple[float, float]:
    """The rate of single events, and the processor time of each in microseconds."""
    used_ns = _processor_ns(service.process_id)
    flags = ("--connections", CONNECTIONS, "--cafile", str(certificate))
    figures = load(service.url, token, *flags, seconds=seconds)
    cost_ns = _processor_ns(service.process_id) - used_ns
    return figures["requests_per_s"], cost_ns / figures["answers"] / 1000


def _processor_ns(process_id: int) -> int:
    tasks = Path(f"/proc/{process_id}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


@contextmanager
def _asking(url: str, reader: str, certificate: Path, *, is_scraped: bool) -> Iterator[None]:
    """A reader, and perhaps a scraper, until the block ends."""
    ended = threading.Event()
    asked = [("/v1/events?limit=10", 1 / READS_PER_S), *([("/metrics", 1.0)] if is_scraped else [])]
    context = ssl.create_default_context(cafile=str(certificate))
    failures: list[str] = []

    def ask(path: str, pause_s: float) -> None:
        while not ended.wait(pause_s):
            request = Request(url + path, headers={"Authorization": f"Bearer {reader}"})
            try:
                with urlopen(request, context=context) as answer:
                    answer.read()
            except HTTPError as error:
                failures.append(f"{path}: {error.code}")

    threads = [threading.Thread(target=ask, args=each) for each in asked]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    if failures:
        raise SystemExit(f"{failures[0]}: the figures would be false")


def _make_certificate(path: Path) -> None:
    """A certificate for 127.0.0.1 that signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    path.chmod(0o600)
