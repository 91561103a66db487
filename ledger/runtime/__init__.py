"""What the server alone needs of its host; what it shares with clients is `ledger_client.runtime`.

keys      files of private keys
"""
