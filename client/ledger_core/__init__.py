"""The logic that client, service, mirror and monitor share.

Nothing here has a clock, randomness, sockets, tasks or logs, and the packages of the service and of
the client are never imported.

    tlog       the transparency log: hashes, proofs, notes, witnesses
    event      an audit event, its canonical leaf, its secrets
    query      the query language
    evidence   the file of evidence, and its check offline
    asking     what a search may ask for
    api        the messages between client and service
    search_answers   the answers of searches, streams and exports
    status     the messages about the log itself and the health of its service
    near_names the known names that are spelled most like a wrong one
    toml       Python's parser of TOML, with limits
"""
