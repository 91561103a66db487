"""A mirror of other people's logs, to which they send their entries (c2sp.org/tlog-mirror).

data_dir       its folder: the keys, and a store for each log
log_copy       the copy of one log: what is kept, what is cosigned, and when
ticket         what a client brings back to go on with an upload
upload_body    the bytes of an upload, inflated within limits
settings       flags and variables
service        answers requests, without HTTP
app            HTTP

`ledger.mirror` is another thing: it fetches one log of ours and answers all that this log does.
This one takes any log that sends it entries, which it does not understand, and serves tiles.
"""
