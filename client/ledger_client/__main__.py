"""`python -m ledger_client` is the command `ledger`."""

from ledger_client.cli import main

main()
