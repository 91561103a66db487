"""The engine of the log: from entries to durable, signed and cosigned tree heads.

group_commit     one writer thread behind many callers
sequencer        entries in order, durable, acknowledged
publisher        signs heads, publishes those that meet the policy
hold             stops appends to a log that is older than it was
witness_client   asks witnesses for cosignatures
public_policy    the policy without the credentials in its addresses
"""
