"""Host services for the server alone; `ledger_client.runtime` has those that clients share.

keys      files of private keys
"""
