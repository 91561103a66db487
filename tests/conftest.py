"""Fixtures of all tests. Tests that a machine can't run are left out loudly, and never in CI."""

import logging
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.faults.hosts import missing_for_hosts
from tests.faults.toxics import missing_toxiproxy

# These tests run recorders on ledgers of their own.
os.environ["LEDGER_RECORDER"] = "real"
# One process a ledger, unless a test asks for more: hundreds of ledgers are started.
os.environ["LEDGER_WORKERS"] = "0"
# However busy the machine is, answers are complete.
os.environ["LEDGER_QUERY_TIME_S"] = "600"

# A command that a test runs in this process sets up its log lines. No logger keeps that set-up, so
# that `_logging_as_before` can undo it.
_configure = structlog.configure


def _configure_uncached(**options: Any) -> None:
    _configure(**{**options, "cache_logger_on_first_use": False})


structlog.configure = _configure_uncached  # type: ignore[assignment]  # it takes any options

TESTS_DIR = Path(__file__).resolve().parent
SHARED_DIR = TESTS_DIR.parents[1] / "shared"
PEERS_BIN_DIR = TESTS_DIR / "peers" / "bin"
SYSLOG_NG_DIR = TESTS_DIR / "peers" / "syslog-ng"
KAFKA_DIR = TESTS_DIR / "peers" / "kafka-broker"
PROMTOOL = TESTS_DIR / "peers" / "promtool"


class Need(NamedTuple):
    """The needs of the tests under a mark, and the message where one is missing."""

    mark: str
    is_met: Callable[[], bool]
    missing: str


def has_syslog_senders() -> bool:
    """Tell whether there are logger, rsyslogd, haproxy, nginx and syslog-ng."""
    servers = [shutil.which(name, path="/usr/sbin") for name in ("rsyslogd", "haproxy", "nginx")]
    return all([shutil.which("logger"), *servers]) and SYSLOG_NG_DIR.is_dir()


OPERATING = ("systemd-analyze", "systemd-socket-activate", "caddy")
NEEDS = (
    Need("shared", SHARED_DIR.is_dir, "there is no ../shared beside this clone"),
    Need(
        "peers",
        has_syslog_senders,
        "tests/peers/apt-packages.txt is not installed, or tests/peers/install-syslog-ng not run",
    ),
    Need("strace", lambda: shutil.which("strace") is not None, "strace is not installed"),
    Need(
        "faketime",
        lambda: any(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")),
        "the package faketime of tests/peers/apt-packages.txt is not installed",
    ),
    Need(
        "hosts",
        lambda: not missing_for_hosts(),
        "no network namespaces can be made: they need root, and iproute2 of apt-packages.txt",
    ),
    Need("toxiproxy", lambda: not missing_toxiproxy(), missing_toxiproxy()),
    Need(
        "redis",
        lambda: shutil.which("redis-server") is not None,
        "redis-server of tests/peers/apt-packages.txt is not installed",
    ),
    Need(
        "operating",
        lambda: all(map(shutil.which, OPERATING)) and Path("/usr/sbin/nginx").exists(),
        "systemd, caddy and nginx-light of tests/peers/apt-packages.txt are not installed",
    ),
    Need(
        "openssh",
        lambda: all(map(shutil.which, ("ssh-agent", "ssh-add", "ssh-keygen"))),
        "openssh-client is not installed",
    ),
    Need(
        "softhsm",
        lambda: all(map(shutil.which, ("softhsm2-util", "openssl", "ssh-add"))),
        "softhsm2 of tests/peers/apt-packages.txt is not installed",
    ),
    Need(
        "kafka",
        lambda: KAFKA_DIR.is_dir() and shutil.which("java") is not None,
        "tests/peers/install-kafka was not run, which needs Java and Maven",
    ),
    Need("promtool", PROMTOOL.is_file, "tests/peers/install-promtool was not run, which needs apt"),
    Need("go", PEERS_BIN_DIR.is_dir, "tests/peers/install was not run, which needs Go"),
)

# No limits of time for examples: how long one takes on a machine with other load says nothing.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")

LEFT_OUT = pytest.StashKey[dict[str, Counter[str]]]()


def pytest_configure() -> None:
    """Heed Ctrl-C even where a shell started us in the background, with SIGINT ignored.

    What tests start inherits that, and some of it is interrupted to see how it ends.

    Raises pytest.UsageError in CI when a need is not met: nothing is left out there.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    missing = [need.missing for need in NEEDS if not need.is_met()]
    if missing and os.environ.get("CI"):
        raise pytest.UsageError("; ".join(missing))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what this machine can't run."""
    left_out = config.stash.setdefault(LEFT_OUT, {})
    for need in NEEDS:
        if need.is_met():
            continue
        without = [item for item in items if item.get_closest_marker(need.mark)]
        left_out[need.missing] = Counter(item.nodeid.partition("[")[0] for item in without)
        items[:] = [item for item in items if not item.get_closest_marker(need.mark)]
        config.hook.pytest_deselected(items=without)
    if hasattr(config, "workeroutput"):  # One of several processes, by pytest-xdist.
        config.workeroutput["left_out"] = {why: dict(tests) for why, tests in left_out.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker process left out; each leaves out the same."""
    left_out = node.config.stash.setdefault(LEFT_OUT, {})
    for why, tests in getattr(node, "workeroutput", {}).get("left_out", {}).items():
        left_out[why] = Counter(tests)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name what was not run, and why."""
    for missing, tests in config.stash.get(LEFT_OUT, {}).items():
        if tests:
            terminalreporter.section(f"left out: {missing}")
            for name, count in tests.items():
                terminalreporter.line(name if count == 1 else f"{name} ({count} times)")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with vectors/ and samples/; ask for it only under @pytest.mark.shared."""
    return SHARED_DIR


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of tests marked `anyio`: asyncio, as in production."""
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Give each module the logging of a fresh process: a library may set up all of it (Celery)."""
    root = logging.getLogger()
    handlers, level, configured = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configured)
