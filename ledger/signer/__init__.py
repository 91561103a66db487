"""A process that holds keys of a PKCS#11 token and signs for others by the ssh-agent protocol.

The service has neither the module of the token nor its PIN (`ledger.runtime.ssh_agent`). A module
that crashes or hangs stops this process alone; heads then wait, and appends go on.

pkcs11_token  the Ed25519 keys of a token
agent         answers requests on a Unix socket
"""
