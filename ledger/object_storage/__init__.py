"""Objects of a bucket: requests, names, a bounded cache; and entries that left this disk for one.

place              where an archive is, and how it is reached
objects            the names and the bytes of an archive's objects
bounded_http       HTTP requests to a store that isn't trusted: answers of bounded length and time
s3_requests        the protocol of S3: addresses, signatures, pages of lists, codes of errors
folder_objects     the objects of a copy in a folder
object_store       the objects of one archive, and what the errors of its store mean
object_cache       objects of the bucket in a bounded folder
fetching           objects in memory, in that cache, or fetched: without waiting, or on a thread
config             DIR/archive.toml
archived_bundles   reads the entries that were released from this disk, for a `LogStore`
releasable         what may leave this disk: shown by one process, removed by another
open_log           opens a log of which entries may have been released

`ledger.archive` writes these objects and checks them; `ledger.reader` serves from them alone.
"""
