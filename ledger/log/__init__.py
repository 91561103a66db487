"""The engine of the log: from entries to durable, signed and cosigned tree heads.

append_request   what is asked to be appended, and what became of it
appender         the interface of appends, in this process or across a socket
group_commit     one writer thread behind many callers
sequencer        entries in order, durable, acknowledged
signing          signs heads, with keys in this process or in another one
publisher        publishes the heads that meet the policy
hold             stops appends to a log that is older than it was
evidence         writes what proves that a log had another history
witness_client   asks witnesses for cosignatures
mirror_peer      cosignatures of mirrors that another process sends entries to
peers            opens the clients of both
public_policy    the policy without the credentials in its addresses
"""
