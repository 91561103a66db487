"""`python -m bench.incident`: the questions of tests/query/test_questions.py among a million.

--events N   events around the incident; the tests of every day have a few thousand

The log, its index and its Parquet are made anew in a temporary folder, which takes most of the
time: some minutes, and 5 GB of memory, since the truth of a question is looked up in all events.
"""

import argparse
import os
import subprocess
import sys


def main() -> None:
    """Run the questions, and end as pytest ends."""
    parser = argparse.ArgumentParser(prog="bench.incident")
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    questions = ["-m", "pytest", "-q", "--timeout=0", "--durations=20"]
    ended = subprocess.run(
        [sys.executable, *questions, "tests/query/test_questions.py"],
        env={**os.environ, "LEDGER_QUESTION_EVENTS": str(options.events)},
        check=False,
    )
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
