"""The command `ledger`: its client side. The service joins its own commands by entry points.

app             the table of commands, exit codes, entry points
client_options  --url, --token-file, --policy, --state, and file arguments
console         printing text or JSON
render, grid    printing entries: table, JSON lines, CSV; a table of any columns
context, config_file    named ledgers, and the file that has them
completion      completes queries in the shell

append import_ rejected_file listen                        into the ledger
query counts fields pivots playbook show sql sql_sources sql_rows export   out of it
verify verify_export consistency heads monitor gaps scan   what an auditor does
erase doctor                                               what an operator does
"""

from ledger_client.cli.app import main as main
