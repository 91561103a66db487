"""The commands of the service, which entry points join to the client's command `ledger`."""

from ledger_client.cli.app import main as main
