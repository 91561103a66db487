"""What an application's tests see: the examples of docs/testing.md, run as their user would."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.utils.functional import SimpleLazyObject

from ledger_client import Recorder, audit_context, audited, diff
from ledger_client.recording.memory import MODE_VARIABLE
from ledger_client.testing import MemoryRecorder
from ledger_core.event.model import EventError

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def examples() -> dict[str, str]:
    """The files in the page: each begins with a comment that names it."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    return {block.split("\n")[0].removeprefix("# "): block for block in blocks}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in examples().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(project: Path, *arguments: str, mode: str | None = None) -> str:
    names = ("LEDGER_RECORDER", "PYTEST_CURRENT_TEST", "PYTEST_VERSION")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    if mode is not None:
        environment[MODE_VARIABLE] = mode
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout + done.stderr


def test_the_example_with_pytest_passes_and_makes_no_spool(project: Path) -> None:
    output = run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py")
    assert "3 passed" in output, output
    assert not (project / "spool").exists()


def test_the_example_with_django_passes_and_makes_no_spool(project: Path) -> None:
    output = run(project, "manage.py", "test", "orders")
    assert "Ran 2 tests" in output, output
    assert output.strip().endswith("OK") or "\nOK\n" in output, output
    assert not (project / "spool").exists()


def test_unittest_is_a_test_run(project: Path) -> None:
    (project / "test_plain.py").write_text(
        "import shop\n"
        "from ledger_client.testing import LedgerTestMixin\n"
        "class Plain(LedgerTestMixin):\n"
        "    def test_refund(self):\n"
        "        shop.refund('p_1', 5)\n"
        "        assert self.events.actions == ['payment.refunded']\n"
        "    def test_nothing(self):\n"
        "        assert self.events == []\n"
    )
    output = run(project, "-m", "unittest", "test_plain.py")
    assert "Ran 2 tests" in output, output
    assert "OK" in output


def test_tests_that_import_django_need_no_settings_of_it(project: Path) -> None:
    program = (
        "import django.db, shop; shop.refund('p_1', 5)\n"
        "from ledger_client.testing import outbox; print(outbox.actions)"
    )
    assert "['payment.refunded']" in run(project, "-c", program, mode="memory")


def test_a_recorder_is_real_outside_of_tests_and_where_it_is_told_to(project: Path) -> None:
    program = "import shop; print(shop.recorder, shop.recorder.record('a.b', actor='u_1'))"
    assert "no such file" in run(project, "-c", program).lower()  # The policy.
    assert "in memory" in run(project, "-c", program, mode="memory")
    told = run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py", mode="real")
    assert "no such file" in told.lower()
    assert "is real or memory, got 'x'" in run(project, "-c", program, mode="x")


def test_a_memory_recorder_does_all_but_sending() -> None:
    recorder = MemoryRecorder(actor="u_1", service="shop", on_invalid="dead-letter")
    with audit_context(actor=("user", "u_2"), source="203.0.113.9"):
        event_id = recorder.record(
            "a.b", changes=diff({"n": 1}, {"n": 2}), context={"password": "Xy7-open-sesame-99"}
        )
    (event,) = recorder.events
    assert event["id"] == event_id
    assert event["actor"] == {"type": "user", "id": "u_2"}
    assert event["source"] == {"ip": "203.0.113.9", "service": "shop"}
    assert event["changes"] == [{"path": "/n", "before": 1, "after": 2}]
    assert "sesame" not in str(event)
    assert recorder.record("no action") is None
    assert [error.field for error in recorder.events.refused] == ["action"]
    assert recorder.status.recorded == 1
    assert recorder.events.of("a.b") == [event] == recorder.events[0:1]
    recorder.events.clear()
    assert recorder.events == []
    assert recorder.close()
    with pytest.raises(ValueError, match="closed"):
        recorder.record("a.b")


def test_a_memory_recorder_raises_a_mistake_as_any_other() -> None:
    with pytest.raises(EventError, match="actor: is required"):
        MemoryRecorder().record("a.b")


def test_a_disabled_recorder_does_nothing_and_lets_everything_run() -> None:
    recorder = Recorder.disabled()
    assert repr(recorder) == "Recorder(disabled)"
    assert recorder.record("not an action") is None
    assert recorder.record_quietly("not an action") is None

    @audited("a.b", recorder=recorder, require=True)
    def work() -> int:
        return 5

    assert work() == 5
    assert recorder.flush()
    assert recorder.close()
    assert recorder.status.recorded == 0


COMMAND = """
from django.core.management.base import BaseCommand
from ledger_client import audited
from ledger_client.testing import outbox

@audited("orders.purged", require=True)
def purge():
    return 7

class Command(BaseCommand):
    def handle(self, *args, **options):
        print(purge(), [(e["action"], e["actor"]["id"]) for e in outbox])
"""


@pytest.mark.parametrize(
    ("enabled", "recorded"), [("", "[('orders.purged', 'django')]"), ("False", "[]")]
)
def test_audited_in_a_command_finds_the_recorder_of_the_settings(
    project: Path, enabled: str, recorded: str
) -> None:
    commands = project / "orders" / "management" / "commands"
    commands.mkdir(parents=True)
    (commands / "purge.py").write_text(COMMAND)
    if enabled:
        with (project / "orders" / "settings.py").open("a") as settings:
            settings.write('LEDGER = {"ENABLED": False}')
    assert f"7 {recorded}" in run(project, "manage.py", "purge", mode="memory")


@pytest.mark.parametrize("field", ["tenant", "reason", "actor", "target", "source", "outcome"])
def test_a_value_that_cannot_be_read_is_a_mistake_of_the_event_and_no_error_of_its_own(
    field: str,
) -> None:
    def query() -> str:
        raise ConnectionError("the database is gone: hunter2")

    quiet = MemoryRecorder(actor="u_1", on_invalid="dead-letter")
    arguments: Any = {field: SimpleLazyObject(query), "context": {"n": 1}}
    assert quiet.record("a.b", **arguments) is None
    assert quiet.record_quietly("a.b", **arguments) is None
    loud = MemoryRecorder(actor="u_1")
    with pytest.raises(EventError, match="raised ConnectionError"):
        loud.record("a.b", **arguments)
    assert loud.record_quietly("a.b", **arguments) is None
    refused = [*quiet.events.refused, *loud.events.refused]
    assert [error.rule for error in refused] == ["wrong-type"] * 3
    assert "hunter2" not in str(refused)


@pytest.mark.parametrize("is_tested", [False, True])
def test_a_process_of_django_whose_mails_stay_in_memory_is_no_test(
    project: Path, is_tested: bool
) -> None:
    program = f"""
from django.conf import settings
settings.configure(EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend")
import django
django.setup()
from django.core import mail
from django.test.utils import setup_test_environment
if {is_tested}:
    setup_test_environment()
mail.get_connection()
assert hasattr(mail, "outbox")
from ledger_client.recording.memory import is_test_run
print(is_test_run())
"""
    assert run(project, "-c", program).split() == [str(is_tested)]
