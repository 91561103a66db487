"""`python -m bench`: all measurements, one table, bench/results.json.

--quick   one second for each figure and a tenth of the entries: a trial, not a result
"""

import argparse
import json
import os
import platform
import shutil
from pathlib import Path

from bench import (
    append,
    evidence,
    heavy_reader,
    million,
    overload,
    publishing,
    record,
    secrets,
    verifying,
    witness,
)
from bench.rows import format_table

FOLDER = Path(__file__).parent / "data" / "run"  # bench.query has its data beside it.
RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    seconds = 1.0 if quick else 5.0
    shutil.rmtree(FOLDER, ignore_errors=True)
    rows = [
        *append.run(FOLDER, seconds=seconds),
        *overload.run(FOLDER, seconds=4 * seconds),
        *record.run(FOLDER, entries=100_000 if quick else 1_000_000, seconds=seconds),
        *secrets.run(),
        *publishing.run(FOLDER, seconds=seconds),
        *witness.run(FOLDER, seconds=seconds),
        *evidence.run(FOLDER, events=100_000 if quick else 1_000_000),
        *million.run(FOLDER, entries=100_000 if quick else 1_000_000, seconds=seconds),
        *heavy_reader.run(FOLDER, entries=100_000, seconds=seconds),
        *verifying.run(FOLDER, entries=100_000 if quick else 1_000_000),
    ]
    print(format_table(rows))
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    results = {"machine": machine, "quick": quick, "rows": [row.as_json() for row in rows]}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    main()
