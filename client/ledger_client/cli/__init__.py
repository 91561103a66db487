"""The command `ledger`: its client side. The service joins its own commands by entry points.

app             the table of commands, exit codes, entry points
client_options  --url, --token-file, --policy, --state, and file arguments
console         printing text or JSON
render          printing entries: table, JSON lines, CSV
append import_ rejected_file listen          into the ledger
query pivots show export consistency         out of it
verify monitor gaps scan erase               what an auditor or operator does
"""

from ledger_client.cli.app import main as main
