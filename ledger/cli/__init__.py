"""The command `ledger`: the composition root. Everything else is reached from here."""

from ledger.cli.app import main

__all__ = ["main"]
