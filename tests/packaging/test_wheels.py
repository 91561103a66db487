"""Both wheels, built from this checkout and installed each in an environment of its own.

Needs the package index that pip is configured with, for the build backend and the dependencies.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger.demo.child_service import Service, make_ledger

ROOT = Path(__file__).resolve().parents[2]
PACKAGES_MAX = 8
CLIENT_BYTES_MAX = 15 * 1000 * 1000
COMMAND_WAIT_S = 600
LOGIN = ("--actor", "user:u_1", "--action", "user.login", "--outcome", "success")

# The files that the two builds read.
BUILT_FROM = ("LICENSE", "README.md", "client/", "ledger/", "pyproject.toml")

# What pip and venv put there themselves.
PRESENT = {"pip", "setuptools"}

# Downloading and installing are slow on a machine with other load.
pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Installed:
    """A virtual environment, and how to run what is in it."""

    folder: Path

    def run(
        self, program: str, *arguments: str | Path, cwd: Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("LEDGER_", "PYTHON"))}
        return subprocess.run(
            [self.folder / "bin" / program, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**environ, **variables},
            cwd=cwd,
            timeout=COMMAND_WAIT_S,
            check=False,
        )

    @property
    def site_packages(self) -> Path:
        return next(self.folder.glob("lib/python3*/site-packages"))


def run_pip(python: str | Path, *arguments: str | Path) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def install(folder: Path, *wheels: Path) -> Installed:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    run_pip(folder / "bin" / "python", "install", "--no-compile", *wheels)
    return Installed(folder)


def build_wheels(root: Path, folder: Path) -> dict[str, Path]:
    """Both wheels, as `make release` builds them: with the pinned hatchling that is installed."""
    build = ("wheel", "--no-deps", "--no-build-isolation", "-w")
    run_pip(sys.executable, *build, folder, root / "client", root)
    return {wheel.name.partition("-")[0]: wheel for wheel in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build_wheels(ROOT, tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def server(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    extras = f"{wheels['witnessed_ledger_client']}[async,importers,ml-dsa]"
    folder = tmp_path_factory.mktemp("server") / "venv"
    return install(folder, Path(extras), wheels["witnessed_ledger"])


@pytest.fixture(scope="module")
def client(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(tmp_path_factory.mktemp("client") / "venv", wheels["witnessed_ledger_client"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that lead a client to a ledger which this checkout serves."""
    directory = tmp_path_factory.mktemp("served") / "audit"
    token = make_ledger(directory, origin="example.com/audit")
    with Service(directory, listen="127.0.0.1:0", flags=("--log-level", "error")) as service:
        yield {
            "LEDGER_URL": service.url,
            "LEDGER_TOKEN": token,
            "LEDGER_POLICY": str(directory / "policy"),
        }


def test_the_client_is_few_packages_small_and_installs_no_package_ledger(
    client: Installed, tmp_path: Path
) -> None:
    listing = client.run("python", "-m", "pip", "list", "--format", "json", cwd=tmp_path).stdout
    names = {row["name"].lower() for row in json.loads(listing)} - PRESENT
    assert len(names - {"witnessed-ledger-client"}) <= PACKAGES_MAX, names
    sizes = {
        folder.name: sum(
            file.stat().st_size
            for file in folder.rglob("*")
            if file.is_file() and file.suffix != ".pyc"
        )
        for folder in client.site_packages.iterdir()
        if not folder.name.startswith(("pip", "setuptools", "pkg_resources", "_distutils"))
    }
    assert sum(sizes.values()) <= CLIENT_BYTES_MAX, sizes
    assert not (client.site_packages / "ledger").exists()
    assert client.run("python", "-c", "import ledger", cwd=tmp_path).returncode == 1


def test_the_client_alone_appends_queries_and_verifies(
    client: Installed, served: dict[str, str], tmp_path: Path
) -> None:
    def ledger(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        done = client.run("ledger", *arguments, cwd=tmp_path, **{**served, **variables})
        assert done.returncode == 0, done.stderr
        return done

    assert "  append " in ledger("--help").stdout
    receipt = json.loads(ledger("append", *LOGIN, "--json").stdout)
    assert receipt["verified"] is True
    assert json.loads(ledger("query", "actor:u_1", "--json").stdout)["verified"] is True
    ledger("prove", receipt["id"], "-o", "login")
    ledger("export", "actor:u_1", "--format", "evidence", "-o", "u_1.zip")
    offline = {"LEDGER_URL": "http://127.0.0.1:1", "LEDGER_TOKEN": ""}
    assert ledger("verify", "login.leaf.json", "login.tlog-proof", **offline).stdout
    assert ledger("verify", "u_1.zip", **offline).stdout.startswith("verified")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("serve", "audit"), "`ledger serve` needs the service"),
        (("fsck", "audit"), "pip install witnessed-ledger"),
        (
            ("erase", "audit", "--subject", "s", "--reason", "r", "--yes"),
            "pip install witnessed-ledger",
        ),
    ],
)
def test_a_command_of_the_service_names_what_to_install(
    client: Installed, tmp_path: Path, arguments: tuple[str, ...], wanted: str
) -> None:
    done = client.run("ledger", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert wanted in done.stderr


def test_a_policy_with_an_ml_dsa_key_is_an_error_without_its_extra_and_never_a_pass(
    client: Installed, served: dict[str, str], tmp_path: Path
) -> None:
    make_other = ("init", "other", "--origin", "example.com/audit", "--ml-dsa")
    command = [sys.executable, "-m", "ledger", *make_other]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    proved = client.run("ledger", "prove", "0", "-o", "first", cwd=tmp_path, **served)
    assert proved.returncode == 0, proved.stderr
    # The policy that the proof passes under, and the ML-DSA-44 key of the same origin beside it.
    trusted = Path(served["LEDGER_POLICY"]).read_text(encoding="utf-8")
    ml_dsa = (tmp_path / "other" / "policy").read_text(encoding="utf-8").splitlines()[1]
    assert ml_dsa.startswith("log ")
    policy = tmp_path / "policy"
    policy.write_text(f"{ml_dsa}\n{trusted}", encoding="utf-8")
    files = ("first.leaf.json", "first.tlog-proof")
    done = client.run("ledger", "verify", *files, "--policy", policy, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert "pip install 'witnessed-ledger-client[ml-dsa]'" in done.stderr


def test_importers_zstd_and_the_asynchronous_client_name_their_extras(
    client: Installed, tmp_path: Path
) -> None:
    (tmp_path / "records.jsonl").write_text("{}\n", encoding="utf-8")
    for arguments in (("--format", "okta"), ("--mapping", "records.jsonl")):
        done = client.run("ledger", "import", *arguments, "records.jsonl", cwd=tmp_path)
        assert done.returncode == 2
        assert "pip install 'witnessed-ledger-client[importers]'" in done.stderr
    (tmp_path / "records.zst").write_bytes(bytes.fromhex("28b52ffd"))
    done = client.run(
        "ledger", "import", "--format", "jsonl", "--dry-run", "records.zst", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "reading zstd files needs the extra zstd" in done.stderr
    assert "pip install 'witnessed-ledger-client[zstd]'" in done.stderr
    done = client.run("python", "-c", "from ledger_client import AsyncLedgerClient", cwd=tmp_path)
    assert "AsyncLedgerClient needs the extra async" in done.stderr
    assert "pip install 'witnessed-ledger-client[async]'" in done.stderr


def test_the_server_makes_serves_and_checks_a_ledger(server: Installed, tmp_path: Path) -> None:
    def ledger(*arguments: str, **variables: str) -> str:
        done = server.run("ledger", *arguments, cwd=tmp_path, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    ledger("init", "audit", "--origin", "example.com/audit", "--ml-dsa")
    scopes = ("--scope", "append", "--scope", "read")
    token = ledger("token", "create", "audit", "--name", "my-app", *scopes)
    serving = subprocess.Popen(
        [server.folder / "bin" / "ledger", "serve", "audit", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        text=True,
    )
    try:
        assert serving.stdout is not None
        url = serving.stdout.readline().strip().rpartition(" ")[2]
        told = {"LEDGER_URL": url, "LEDGER_TOKEN": token, "LEDGER_POLICY": "audit/policy"}
        assert json.loads(ledger("append", *LOGIN, "--json", **told))["index"] == 1
    finally:
        serving.terminate()
        serving.communicate(timeout=60)
    assert ledger("fsck", "audit").startswith("2 entries")


def test_a_build_elsewhere_gives_the_same_bytes(wheels: dict[str, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "another" / "checkout"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    found = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, found.split("\0")):
        if (ROOT / name).is_file() and name.startswith(BUILT_FROM):
            copy = elsewhere / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
            os.utime(copy, (1_000_000_000, 1_000_000_000))
            copy.chmod(0o600)
    again = build_wheels(elsewhere, tmp_path / "wheels")
    assert {name: wheel.read_bytes() for name, wheel in again.items()} == {
        name: wheel.read_bytes() for name, wheel in wheels.items()
    }


def test_the_bill_of_materials_names_each_package_with_a_licence_that_asks_nothing(
    server: Installed, tmp_path: Path
) -> None:
    bill = tmp_path / "sbom.cdx.json"
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    subprocess.run([*command, "-o", bill, server.folder], check=True, capture_output=True)
    components = json.loads(bill.read_text())["components"]
    named = {each["name"].lower(): each for each in components}
    assert {"lmdb", "aiohttp", "pynacl", "witnessed-ledger-client"} <= named.keys()
    for name, component in named.items():
        if name in PRESENT:
            continue
        assert component["version"], name
        licences = json.dumps(component.get("licenses", []))
        assert re.search("MIT|BSD|Apache|OpenLDAP|OLDAP|PSF|Python|MPL", licences), (name, licences)


@pytest.mark.parametrize(
    ("installer", "commands"),
    [
        ("uv", [["uv", "tool", "install", "{client}", "--with", "{server}"]]),
        (
            "pipx",
            [["pipx", "install", "{client}"], ["pipx", "inject", "{client_name}", "{server}"]],
        ),
    ],
)
def test_it_is_a_command_of_the_system_by_uv_and_by_pipx(
    installer: str, commands: list[list[str]], wheels: dict[str, Path], tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    tools = Installed(tmp_path / "venv")
    run_pip(tools.folder / "bin" / "python", "install", installer)
    folders = {
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "UV_TOOL_BIN_DIR": str(tmp_path / "bin"),
        "PIPX_HOME": str(tmp_path / "tools"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
    }
    names = {
        "client": str(wheels["witnessed_ledger_client"]),
        "server": str(wheels["witnessed_ledger"]),
        "client_name": "witnessed-ledger-client",
    }
    for program, *arguments in commands:
        texts = [argument.format(**names) for argument in arguments]
        done = tools.run(program, *texts, cwd=tmp_path, **folders)
        assert done.returncode == 0, done.stderr
    system = Installed(tmp_path)
    made = system.run("ledger", "init", "audit", "--origin", "example.com/a", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert system.run("ledger", "fsck", "audit", cwd=tmp_path).returncode == 0
