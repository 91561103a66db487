"""The command `ledger`: its client side, a module for each command."""

from ledger_client.cli.app import main as main
