"""Host services for the server alone; `ledger_client.runtime` has those that clients share.

keys            files of private keys
connections     limits of the connections of an HTTP server
memory          freed memory goes back to the system
settings_table  flags, variables and help texts of settings
"""
