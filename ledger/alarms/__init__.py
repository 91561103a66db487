"""Alarms: events that should not happen, noticed as they are logged.

    config      the alarms of a ledger: `DIR/alarms.toml`, and the starter set
    firing      a firing, and the event of it
    groups      what alarms count by, and how much of it they keep
    silence     nothing came of a group
    gaps        numbers of a recorder that are missing
    missing_witnesses  witnesses that cosign no more
    evaluator   counts within windows, sequences, and all of these; no clock, no I/O
    worker      the process that evaluates the alarms of a ledger
    starter.toml  alarms for common attacks

The alarms are a follower (`ledger.follow`). A firing becomes an event, `ledger.alarm.fired`, so it
is proved like any other, and any sink delivers it.
"""
