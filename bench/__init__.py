"""Measurements of the running service: `make bench` prints a table and writes results.json."""

import os

# What is measured is one process, unless a part says otherwise.
os.environ.setdefault("LEDGER_WORKERS", "0")
