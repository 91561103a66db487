"""Sends the entries of a log to mirrors of other people (c2sp.org/tlog-mirror): a follower.

config       `mirrors.toml`: a table for each mirror
packages     requests that are made of the log's entries
mirror_client  the requests to one mirror, and its answers
heads        the heads of the log that can be sent
worker       the process of one mirror
trial        asks a mirror what it has, for `ledger tlog-mirror push test`

The cosignatures that a mirror gives go to the publisher by a file (`ledger.log.mirror_peer`).
"""
