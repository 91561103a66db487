"""The service of a witnessed ledger: an audit log on a Merkle tree.

    runtime    host services for server processes
    signer     signs with a PKCS#11 token, in a process of its own
    store      all that is stored in LMDB
    log        the engine: entries in order, signed and cosigned heads
    follow     processes that consume the log: the index, sinks, alarms, archives
    object_storage  reads buckets; opens a log of which entries left for one
    query      answers queries
    sinks      sends entries to other tools
    alarms     notices events that should not happen
    service    the HTTP service
    witness    cosigns the heads of other logs
    workers    several processes for one service
    mirror     a verified copy on another host
    mirror_push  sends a log to mirrors of other people
    tlog_mirror  copies of other logs, which send their entries
    archive    a copy in a bucket, and a ledger made of it
    reader     a read-only service over such a copy
    retention  removes old entries under a written policy
    demo       a ledger with an attack, told step by step
    cli        the commands

Each may import those above it. `ledger_core` has the logic that clients share.
"""
