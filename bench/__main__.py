"""`python -m bench [PART …]`: measurements in one table; of all parts also in bench/results.json.

--quick   one second for each figure and a tenth of the entries: a trial, not a result
"""

import argparse
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from bench import (
    append,
    archive,
    evidence,
    growth,
    heavy_reader,
    million,
    mirror,
    operating,
    overload,
    publishing,
    record,
    secrets,
    sequencing,
    sinks,
    verifying,
    witness,
    workers,
)
from bench.rows import Row, format_table

FOLDER = Path(__file__).parent / "data" / "run"  # bench.query has its data beside it.
RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("part", nargs="*", help=", ".join(_parts(quick=True)))
    options = parser.parse_args()
    parts = _parts(quick=options.quick)
    for name in options.part:
        if name not in parts:
            parser.error(f"there is no part {name}; the parts are {', '.join(parts)}")
    shutil.rmtree(FOLDER, ignore_errors=True)
    rows = [row for name in options.part or parts for row in parts[name]()]
    print(format_table(rows))
    shutil.rmtree(FOLDER, ignore_errors=True)
    if options.part:
        return
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    results = {"machine": machine, "quick": options.quick, "rows": [row.as_json() for row in rows]}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _parts(*, quick: bool) -> dict[str, Callable[[], list[Row]]]:
    seconds = 1.0 if quick else 5.0
    entries = 100_000 if quick else 1_000_000
    return {
        "append": lambda: append.run(FOLDER, seconds=seconds),
        "overload": lambda: overload.run(FOLDER, seconds=4 * seconds),
        "operating": lambda: operating.run(FOLDER / "operating", seconds=seconds),
        "record": lambda: record.run(FOLDER, entries=entries, seconds=seconds),
        "secrets": secrets.run,
        "publishing": lambda: publishing.run(FOLDER, seconds=seconds),
        "witness": lambda: witness.run(FOLDER, seconds=seconds),
        "evidence": lambda: evidence.run(FOLDER, events=entries),
        "growth": lambda: growth.run(
            FOLDER, sizes=[size // (100 if quick else 1) for size in growth.SIZES], seconds=seconds
        ),
        "million": lambda: million.run(FOLDER, entries=entries, seconds=seconds),
        "heavy_reader": lambda: heavy_reader.run(FOLDER, entries=100_000, seconds=seconds),
        "verifying": lambda: verifying.run(FOLDER, entries=entries),
        "sequencing": lambda: sequencing.run(FOLDER / "sequencing"),
        "workers": lambda: workers.run(FOLDER, seconds=seconds),
        "archive": lambda: archive.run(FOLDER / "archive", entries=entries),
        "sinks": lambda: sinks.run(FOLDER / "sinks", entries=entries // 10),
        "followers": lambda: sinks.measure_cost(FOLDER / "followers", seconds=2 * seconds),
        "mirror": lambda: mirror.run(FOLDER / "mirror", entries=entries, seconds=2 * seconds),
    }


if __name__ == "__main__":
    main()
