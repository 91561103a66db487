"""`python -m ledger` is the command `ledger`."""

from ledger.cli import main

main()
