"""`ledger verify-archive`, as its user runs it."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from ledger.cli.archive import verify as command
from ledger.object_storage.place import Place
from ledger_core.tlog.errors import VerificationError


def verify(
    place: Place, policy: Path, *flags: str, faults: int = 0, endpoint: str = ""
) -> dict[str, Any]:
    """The report on an archive, which must have so many faults."""
    arguments = [place.url, "--policy", str(policy), "--json", *flags]
    if place.is_s3:
        arguments += ["--endpoint", endpoint or place.endpoint]
    done = CliRunner().invoke(command, arguments)
    report: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    if faults:
        assert isinstance(done.exception, VerificationError), (done.exception, report)
        assert report["faults_total"] == faults, report["faults"]
        assert not report["verified"]
    elif done.exception is not None:
        raise done.exception
    return report
