"""`python -m tests.fuzz`: every parser gets mutated inputs, and every route requests, for minutes.

    --minutes M    for all targets together; 10 unless told
    --keep         write the inputs that reach new code to tests/corpus
    NAME …         these targets alone; `http` is tests/service/test_scopes.py with other requests
                   each time

Exits with 1 after a finding, whose input is printed: add it to tests/corpus/NAME.txt, where it
stays as a test, and mend the parser. One of `http` becomes a test of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tests.fuzz.corpus import read_corpus, write_corpus
from tests.fuzz.targets import TARGETS

INPUT_BYTES_MAX: Final = 4_096
KEPT_BYTES_MAX: Final = 1_024
KEPT_MAX: Final = 40
INPUT_WAIT_S: Final = 20
MEMORY_MB_MAX: Final = 1_024
CRASH: Final = "finding"
HTTP: Final = "http"
HTTP_EXAMPLES: Final = 20
"""Requests to each route in one round."""


def main() -> None:
    """Fuzz the targets one after another."""
    parser = argparse.ArgumentParser(prog="tests.fuzz")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*TARGETS, HTTP)))
    options = parser.parse_args()
    if unknown := set(options.names) - {*TARGETS, HTTP}:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if find_spec("atheris") is None and options.names != [HTTP]:
        parser.error("atheris is not installed: make fuzz installs it, and runs this")
    names = options.names or [*TARGETS, HTTP]
    seconds = max(1, round(options.minutes * 60 / len(names)))
    findings = [
        name
        for name in names
        if not (ask(seconds) if name == HTTP else fuzz(name, seconds, is_kept=options.keep))
    ]
    if findings:
        sys.exit(f"findings in {', '.join(findings)}")


def fuzz(name: str, seconds: int, *, is_kept: bool) -> bool:
    """Fuzz one target; whether nothing was found."""
    with tempfile.TemporaryDirectory(prefix="ledger-fuzz-") as made:
        seeds, grown, merged = (Path(made, each) for each in ("seeds", "grown", "merged"))
        for folder in (seeds, grown, merged):
            folder.mkdir()
        for number, data in enumerate(read_corpus(name)):
            (seeds / str(number)).write_bytes(data)
        done = _run(name, f"-max_total_time={seconds}", f"-artifact_prefix={made}/{CRASH}-",
                    f"-max_len={INPUT_BYTES_MAX}", f"-timeout={INPUT_WAIT_S}",
                    f"-rss_limit_mb={MEMORY_MB_MAX}", grown, seeds)  # fmt: skip
        found = [each.read_bytes() for each in Path(made).glob(f"{CRASH}-*")]
        print(  # noqa: T201 - a command
            f"{name}: {len(list(grown.iterdir()))} inputs reached new code, {len(found)} findings"
        )
        if done.returncode or found:
            sys.stderr.write("\n".join((done.stderr[-4_000:], *map(repr, found), "")))
            return False
        if is_kept:
            _run(name, "-merge=1", merged, seeds, grown)
            kept = {each.read_bytes() for each in merged.iterdir()}
            small = sorted((each for each in kept if len(each) <= KEPT_BYTES_MAX), key=len)
            write_corpus(name, {*read_corpus(name), *small[:KEPT_MAX]})
    return True


def ask(seconds: int) -> bool:
    """Ask every route with each scope, one round at least; whether nothing was found."""
    end_s, rounds = time.monotonic() + seconds, 0
    while rounds == 0 or time.monotonic() < end_s:
        done = subprocess.run(
            [*(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
             *("--timeout", "0", "tests/service/test_scopes.py")],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HTTP_EXAMPLES": str(HTTP_EXAMPLES)},
        )  # fmt: skip
        rounds += 1
        if done.returncode:
            sys.stderr.write(done.stdout[-8_000:])
            return False
    print(f"{HTTP}: {rounds} rounds, no findings")  # noqa: T201 - a command
    return True


def _run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz.fuzzing", name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")


if __name__ == "__main__":
    main()
