"""The commands of the pages run as the pages show them, in the shell that they name.

Each page, or part of it, is one script of bash in a folder of its own. What the page leaves to the
reader (an address, a token, a folder of the system) is put in by `replace`.
"""

import gzip
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger.service.token_admin import make_token
from ledger_client import LedgerClient, private
from tests.docs.blocks import Block, all_blocks
from tests.served import ORIGIN, ServedLedger

BLOCKS: Final = all_blocks()
PRELUDE: Final = (Path(__file__).parent / "prelude.sh").read_text(encoding="utf-8")
WAIT_S: Final = 240
SCOPES: Final = ("append", "read", "private", "erase")

NOT_RUN: Final[Mapping[tuple[str, str], str]] = {
    ("README.md", "make demo"): "tests/demo runs the demo, and `make test` is this run",
    ("docs/archive.md", "pip install"): "tests/archive runs these commands, with a real S3 server",
    ("docs/archive.md", "aws s3api"): "the program of AWS; tests/archive sets the same lock",
    ("docs/archive.md", "ledger verify-archive"): "tests/archive, with a real S3 server",
    ("docs/archive.md", "ledger serve --read-only"): "tests/archive, with a real S3 server",
    ("docs/archive.md", "ledger archive move-released"): "tests/archive, with a real S3 server",
    ("docs/archive.md", "ledger restore"): "tests/archive, with a real S3 server",
    ("docs/importers.md", "ledger import --format"): "needs a cluster; tests/cli/test_import.py",
    ("docs/importers.md", "ledger import --mapping"): "tests/cli/test_import.py, as the page says",
    ("docs/keys.md", "NEW_VKEY="): "tests/service/test_key_rotation.py, as the page says",
    ("docs/keys.md", "ledger witness add-log"): "tests/service/test_key_rotation.py",
    ("docs/keys.md", "OLD_VKEY="): "tests/service/test_key_rotation.py",
    ("docs/keys.md", "ledger witness remove-key"): "tests/service/test_key_rotation.py",
    ("docs/operating.md", "cp deploy/systemd"): "changes the machine; tests/deploy, with systemd",
    ("docs/operating.md", "podman compose"): "no container engine; tests/deploy runs its commands",
    ("docs/quickstart.md", "uv tool"): "changes the user's folder; tests/packaging",
    ("docs/quickstart.md", "pipx"): "changes the user's folder; tests/packaging",
    ("docs/recorder.md", "$ LEDGER_URL="): "output of a sample; tests/client runs doctor",
    ("docs/reliability.md", "make faults"): "takes an hour: `make faults`",
    ("docs/retention.md", "ledger retention apply"): "stops a service of systemd; tests/retention",
    ("docs/searching.md", 'eval "$(_LEDGER_COMPLETE'): "needs a keyboard; tests/cli completes",
    ("docs/sql.md", "ledger serve --read-only"): "tests/archive, with a real S3 server",
    ("docs/syslog.md", "ledger listen syslog"): "tests/cli/test_listen.py and tests/peers",
    ("docs/tlog-mirror.md", "ledger tlog-mirror push"): "names another host; tests/mirror_push",
    ("docs/witnesses.md", "pip install"): "needs a bastion; tests/witness has one",
    ("docs/workers.md", "pip install"): "changes the machine; tests/workers replaces workers",
    ("docs/examples/README.md", "curl"): "tests/integrations/test_examples.py",
}
"""By page and beginning of a block: why it is not run here, and what runs instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The blocks below some headings of a page; without headings, all of its blocks in `sh`.

    `ledger`: the folder `audit` and `DIR` of the page: "served", "own" or "none". `files`: what the
    reader has, by name. `after`: commands at the end.
    """

    page: str
    headings: tuple[str, ...] = ()
    ledger: str = "served"
    replace: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    has_variables: bool = True

    def blocks(self) -> list[Block]:
        """The blocks that this script runs, in the order of the page."""
        return [
            block
            for block in BLOCKS
            if block.page == self.page
            and block.language == "sh"
            and (not self.headings or block.heading in self.headings)
            and not reason_not_to_run(block)
        ]


SERVE: Final = "ledger serve DIR; LEDGER_URL=$(sed -n 's/^serving on //p' serving.0)\n"
APPEND_DENIED: Final = "ledger append --actor user:u_1 --action user.login --outcome denied\n"
PIP: Final = {"python3 -m venv venv\n. venv/bin/activate\n": "", "pip install": "true pip install"}
SCRIPTS: Final = (
    Script(
        page="README.md",
        headings=("When something has happened",),
        replace={"around 4711": "around 3"},
    ),
    Script(
        page="README.md",
        headings=("From nothing to a verified event",),
        ledger="none",
        replace={
            "python3 -m venv venv && . venv/bin/activate\n": "",
            "pip install": "true pip install",
            "ledger serve audit": "command ledger serve audit",
            "sleep 5 ": "until curl -fs {url}/healthz; do sleep 0.1; done ",
        },
    ),
    Script(
        page="docs/quickstart.md",
        ledger="none",
        has_variables=False,
        replace={
            **PIP,
            "wl_…": "$(ledger token create audit --name test --scope append --scope read)",
        },
        files={"events.jsonl": '{"actor":{"id":"u_2"},"action":"user.login","outcome":"denied"}\n'},
    ),
    Script(page="docs/alarms.md", ledger="own", files={"hook.key": "k" * 32, "mail.pw": "p" * 16}),
    Script(
        page="docs/backup.md",
        ledger="own",
        before=f"{SERVE}kill ${{serving[0]}}; wait",
        replace={
            "NEWDIR --erasures NEWER": "NEWDIR2 --erasures DIR",
            "PRIVATEKEYFILE": "DIR/private.key",
            "KEYFILE": "DIR/key",
            "ledger recover DIR": "ledger recover DIR --offline",
        },
    ),
    Script(
        page="docs/command-line.md",
        has_variables=False,
        before='export XDG_CONFIG_HOME="$PWD/config"',
        replace={"https://ledger.example.com": "{url}"},
        files={"prod.token": "{token}", "stage.token": "wl_stage"},
    ),
    Script(
        page="docs/erasable-fields.md",
        replace={"https://ledger.example.com --subject p_7": "{url} --subject p_8"},
    ),
    Script(
        page="docs/keys.md",
        headings=("The signing key under a passphrase",),
        ledger="own",
        files={"passphrase": "correct horse battery\n"},
    ),
    Script(
        page="docs/metrics.md",
        replace={"--name prometheus": "--name prometheus-{port}"},
    ),
    Script(
        page="docs/mirror.md",
        replace={"https://ledger.example.com": "{url}", "0.0.0.0:8765": "127.0.0.1:{port}"},
    ),
    Script(
        page="docs/monitor.md",
        replace={
            "https://ledger.example.com": "{url}",
            "wl_…": "{token}",
            " --ask-witnesses": "",  # The policy of the ledger here has none.
        },
    ),
    Script(
        page="docs/operating.md",
        headings=("Check a ledger",),
        replace={"doctor DIR": "doctor DIR --url {url}"},
    ),
    Script(page="docs/operating.md", headings=("Events about operators",)),
    Script(
        page="docs/operating.md",
        headings=("TLS",),
        ledger="own",
        before="LEDGER_TOKEN=$(ledger token create DIR --name app --scope append)",
    ),
    Script(page="docs/playbook.md"),
    Script(page="docs/retention.md", ledger="own", before=SERVE),
    Script(page="docs/searching.md"),
    Script(page="docs/secrets.md", files={"events.jsonl": '{"action": "user.login"}\n'}),
    Script(
        page="docs/sinks.md",
        ledger="own",
        before=f"mkdir log\n{SERVE}{APPEND_DENIED}",
        replace={
            "ledger verify-export /var": "until grep denied log/audit.jsonl >splunk.json\n"
            "do sleep 0.1; done\nledger verify-export /var",
            "/var/log/ledger": "$PWD/log",
            "/etc/ledger/hec.token": "hec.token",
        },
        files={"hec.token": "t" * 32},
    ),
    Script(page="docs/sql.md", replace=PIP),
    Script(
        page="docs/tlog-mirror.md",
        headings=("Run one",),
        replace={
            "'example.com/audit+4431c298+AQeO…'": "$(cut -d' ' -f2 policy | head -1)",
            "0.0.0.0:8767": "127.0.0.1:{port}",
        },
    ),
    Script(page="docs/tokens.md", ledger="own"),
    Script(page="docs/troubleshooting.md", replace={"doctor DIR": "doctor DIR --url {url}"}),
    Script(
        page="docs/witnesses.md",
        replace={
            "'example.com/audit+4431c298+AQeO…'": "$(cut -d' ' -f2 policy | head -1)",
            "0.0.0.0:8766": "127.0.0.1:{port}",
            "https://lists.example.org/logs": "logs",
            "ledger witness serve w1 --log-list": "ledger witness serve w2 --log-list",
            "ledger witness add-logs w1": "ledger witness init w2 --name example.com/w2\n"
            "ledger witness add-logs w2",
        },
        files={"logs": "logs/v0\n"},
    ),
    Script(page="docs/workers.md", ledger="own"),
)
PROGRAMS: Final = (
    Script(
        page="docs/keys.md",
        headings=("The signing key in another process",),
        ledger="none",
        after='eval "$(cat agent.env)" >/dev/null; ssh-agent -k >/dev/null',
    ),
    Script(
        page="docs/keys.md",
        headings=("A PKCS#11 token",),
        ledger="none",
        after='test "$(wc -l <log.pub)" = 1',
    ),
)
MARKS: Final = (pytest.mark.openssh, pytest.mark.softhsm)


def reason_not_to_run(block: Block) -> str:
    """The reason of NOT_RUN; an empty text for a block that is run."""
    return next(
        (
            reason
            for (page, start), reason in NOT_RUN.items()
            if block.page == page and block.text.startswith(start)
        ),
        "",
    )


def events() -> Iterator[dict[str, Any]]:
    """Those that the queries of the pages ask for."""
    for number in range(6):
        yield {
            "actor": {"id": "u_117", "credential": "tok_17"},
            "action": "login.failed",
            "outcome": "failure" if number else "denied",
            "source": {"ip": f"203.0.113.{number}"},
            "targets": [{"type": "patient", "id": "pa_9907"}],
        }
        yield {
            "actor": {"id": "u_5"},
            "action": "record.exported",
            "outcome": "denied" if number == 3 else "success",
            "source": {"ip": "198.51.100.7"},
            "context": {"bytes": 4096},
        }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedLedger]:
    directory = tmp_path_factory.mktemp("docs") / "audit"
    make_ledger(directory, origin=ORIGIN)
    token = make_token(directory, name="docs", scopes=SCOPES, tenant=None)
    with Service(directory, listen="127.0.0.1:0", flags=("--log-level", "error")) as service:
        with LedgerClient(service.url, token, policy=directory / "policy") as client:
            client.append_many(events())
            for subject in ("p_7", "p_8"):
                named = {"type": "patient", "id": subject, "name": private("N", subject=subject)}
                event = {"actor": {"id": "u_1"}, "action": "record.viewed", "outcome": "success"}
                client.append({**event, "targets": [named]})
        yield ServedLedger(service.url, token, directory)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def prepare(script: Script, folder: Path, served: ServedLedger) -> dict[str, str]:
    """Make what the reader of a page has; the values that `replace` may name."""
    port = str(free_port())
    values = {"url": served.url, "token": served.token, "port": port}
    if script.ledger == "none":
        values["url"] = f"http://127.0.0.1:{port}"
    elif script.ledger == "own":
        values["token"] = make_ledger(folder / "audit", origin=ORIGIN)
        (folder / "DIR").symlink_to("audit")
    else:
        (folder / "audit").symlink_to(served.directory)
        (folder / "DIR").symlink_to(served.directory)
        for name in ("policy", "ledger.policy", "prod.policy", "stage.policy"):
            shutil.copy(served.policy, folder / name)
    for name, text in script.files.items():
        (folder / name).write_text(text.format(**values) if "{token}" in text else text)
        (folder / name).chmod(0o600)
    record = {
        "eventID": "0192f0c1-7c1a-4c3a-9d2f-3b1c2d3e4f50",
        "eventTime": "2026-11-25T02:03:36Z",
        "eventSource": "iam.amazonaws.com",
        "eventName": "CreateUser",
        "userIdentity": {"type": "IAMUser", "userName": "ann"},
    }
    (folder / "trail.json.gz").write_bytes(
        gzip.compress(json.dumps({"Records": [record]}).encode())
    )
    return values


def run(script: Script, folder: Path, served: ServedLedger) -> None:
    """Run the blocks of a script, one after another, in one shell."""
    values = prepare(script, folder, served)
    replace = {**script.replace, ":8765": f":{values['port']}"}
    commands = [PRELUDE, script.before]
    for number, block in enumerate(script.blocks()):
        text = block.text
        for old, new in replace.items():
            text = text.replace(old, re.sub(r"\{(url|token|port)\}", lambda m: values[m[1]], new))
        commands += [f"echo {shlex.quote(f'--- block {number}: {block.heading}')} >&2", text]
    assert len(commands) > 2
    environ = {k: v for k, v in os.environ.items() if not k.startswith("LEDGER_")}
    environ |= {
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:{environ['PATH']}",
        "LEDGER_LISTEN": "127.0.0.1:0",
        "LEDGER_WORKERS": "0",
        "HOME": str(folder),
    }
    if script.has_variables:
        policy = "audit/policy"
        environ |= {"LEDGER_URL": values["url"], "LEDGER_POLICY": policy}
        environ |= {"LEDGER_TOKEN": values["token"]}
    done = subprocess.run(
        ["bash", "-c", "\n".join([*commands, script.after])],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]


def name_of(script: Script) -> str:
    return f"{script.page}#{'+'.join(script.headings)}"


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_the_commands_of_a_page_run(script: Script, tmp_path: Path, served: ServedLedger) -> None:
    run(script, tmp_path, served)


@pytest.mark.openssh
def test_the_commands_for_an_agent_run(tmp_path: Path, served: ServedLedger) -> None:
    run(PROGRAMS[0], tmp_path, served)


@pytest.mark.softhsm
def test_the_commands_for_a_pkcs11_token_run(tmp_path: Path, served: ServedLedger) -> None:
    run(PROGRAMS[1], tmp_path, served)
