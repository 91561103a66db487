"""The demo: a temporary ledger, the events of a company's bad week, and an intruder who is caught.

steps           what `ledger demo` does, in order
data            the events of the week
tampering       how the intruder changes an entry
child_service   ledgers and witnesses in child processes, for tests and benchmarks too
ending          a closed terminal ends both
scratch         a temporary ledger for the example applications
"""
