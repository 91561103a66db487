"""`python -m ledger_client` is the command `ledger`."""

import os
import sys

# `python -m` puts the working directory first, where anybody's `structlog.py` would run as ours.
if not sys.flags.safe_path and sys.path[0] == os.getcwd():  # noqa: PTH109 - loads no pathlib
    del sys.path[0]

from ledger_client.cli import main

main()
