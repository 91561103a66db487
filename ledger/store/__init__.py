"""All that is stored in LMDB, and the only package that imports it.

keyspace          every key and value, on one page
pages             which pages of a data file are used, and which are free
file_length       notices a data file that was cut short
commit_errors     what a refused write means: undone, or unknown until a restart
readers_file      gives LMDB's file of readers its place on the disk
transaction       reads and writes the rows of one environment
drafts            a data file that is made aside, and takes its place
environment       one LMDB environment: open, create, read, write, lock
compaction        rows are removed for good by a copy without them
damage            the errors of a damaged log
id_rows           the table of ids
minimum_index     the entries below it were pruned
released          entries that left this disk for an archive
bundles           reads entries, on this disk or released
log               reads the log: entries, tiles, proofs, checkpoints
stored_log        the interface by which a log is read, on this disk or elsewhere
log_start         what the writer reads before its first commit
writer            the one writer of a log
earlier_entries   reads what has an id already, for the writer
entry_writer      the writer of a log whose entries are no events
bundle_removal    removes bundles that an archive has
pruning           a log without the entries below a minimum index takes its place
kept_heads        the published checkpoints that are kept
fsck              recomputes a whole log
index/            which entries have which terms
token_events      what the log says of the tokens in use
hold_events       what the log says of legal holds
private_fsck      checks erasable values
tokens            access tokens, and the outbox of their events
key_slots         the file of their keys
erasable_values   values that can be destroyed, and their keys
unbound_values    those of version 0.1
"""
