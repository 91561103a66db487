"""Generate the synchronous client from the asynchronous one, or check that it is current.

    python client/generate_sync.py [--check]

`unasync` replaces names token by token: `await` goes, `AsyncIterator` becomes `Iterator`. It leaves
docstrings alone: `SENTENCES` has those that differ. `make check` runs this with --check, `make fix`
writes the files.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from unasync import Rule, unasync_files

PACKAGE: Final = Path(__file__).parent / "ledger_client"
SOURCES: Final = {
    "async_client.py": "client.py",
    "async_downloads.py": "downloads.py",
    "async_session.py": "session.py",
    "async_driver.py": "driver.py",
}
HEADER: Final = (
    "# Generated from {source} by client/generate_sync.py: edit that file, not this one.\n"
)

NAMES: Final = {
    "AsyncDownloads": "Downloads",
    "AsyncDriver": "Driver",
    "AsyncLedgerClient": "LedgerClient",
    "AsyncSession": "Session",
    "AsyncTransport": "Transport",
    "aclosing": "closing",
    "async_downloads": "downloads",
    "async_driver": "driver",
    "async_session": "session",
    "async_transport": "transport",
    "asyncio": "threading",
}

SENTENCES: Final = (
    (
        '"""The client for programs with an event loop. See `AsyncLedgerClient`."""',
        '"""The client for programs with threads. See `LedgerClient`."""',
    ),
    ("See `AsyncDownloads`.", "See `Downloads`."),
    (
        '"""The driver of plans for programs with an event loop. See `AsyncDriver`."""',
        '"""The driver of plans for programs with threads. See `Driver`."""',
    ),
    (
        "async with AsyncLedgerClient(url, token, policy",
        "with LedgerClient(url, token, policy",
    ),
    ("receipt = await ledger.append(", "receipt = ledger.append("),
    (
        "Many tasks of one event loop may use it. Verifying runs on the loop, 20 µs an event:\n"
        "    a batch of 10,000 holds the loop for a fifth of a second, a batch of 100 for 2 ms.\n",
        "Safe from many threads.\n",
    ),
)


def generate(source: Path) -> str:
    """The synchronous text for an asynchronous module."""
    text = source.read_text(encoding="utf-8")
    for old, new in SENTENCES:
        text = text.replace(old, new)
    with TemporaryDirectory() as scratch:
        before, after = (Path(scratch, name, source.name) for name in ("async", "sync"))
        before.parent.mkdir()
        before.write_text(text, encoding="utf-8")
        unasync_files([str(before)], [Rule("/async/", "/sync/", NAMES)])
        text = HEADER.format(source=source.name) + after.read_text(encoding="utf-8")
    for command in ("check --fix --unsafe-fixes --select I,UP028", "format"):
        text = _ruff(command, text)
    return text


def _ruff(command: str, text: str) -> str:
    name = str(PACKAGE / "generated.py")
    done = subprocess.run(  # noqa: S603 - the arguments are those above
        [
            *(sys.executable, "-m", "ruff", *command.split()),
            "--quiet",
            "--stdin-filename",
            name,
            "-",
        ],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def main() -> None:
    """Write, or with --check name the files that are not current and exit 1."""
    wanted = {PACKAGE / to: generate(PACKAGE / source) for source, to in SOURCES.items()}
    stale = [
        path
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if sys.argv[1:] == ["--check"] and stale:
        names = ", ".join(path.name for path in stale)
        sys.exit(f"not current: {names}; `make fix` generates them")
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")


if __name__ == "__main__":
    main()
