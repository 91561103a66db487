"""A mirror: a verified copy of a log, on another host, which answers all that the log does.

data_dir   the folder of a mirror: what it follows, and by which policy
replica    the rules: which heads and entries are kept, and what happens when the log lies
fetching   requests to the log: heads, the live stream, tiles and bundles
catch_up   fills a mirror that is far behind, from tiles and bundles
follower   the loops that fetch and keep, with their waits
state      what `status` shows, in memory and in a file
cosigner   cosigns what is held: the mirror as a witness of its log
fsck       checks what a mirror has beside a ledger
promotion  makes a ledger of a mirror when the log is gone
app        the service of a mirror: that of a ledger, with the entries of another log

It is no follower of `ledger.follow`, which run beside the log and read its files. It is a service
on another host, so it lies above `ledger.service`, whose routes it serves (ADR 0029).
"""
