"""Callers without a token of this ledger: by client certificate, or by identity provider.

config        principals.toml: which certificates and which claims may do what
certificates  the principal of a client certificate
jwks          the keys of an issuer, fetched beside the requests
jwt_tokens    verifies a token of an issuer, and finds its principal
identities    all of these, as requests ask them
"""
