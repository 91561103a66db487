"""Alarms: events that should not happen, noticed as they are logged.

    config      the alarms of a ledger: `DIR/alarms.toml`, and the starter set
    evaluator   counts within windows, by group; sequences, silence; no clock, no I/O
    firing      a firing as an event of the log
    worker      the process that evaluates the alarms of a ledger
    starter.toml  alarms for common attacks

The alarms are a follower (`ledger.follow`). A firing becomes an event, `ledger.alarm.fired`, so it
is proved like any other, and any sink delivers it.
"""
