"""Objects of a bucket: requests, names, a bounded cache; and entries that left this disk for one.

place              where an archive is, and how it is reached
objects            the names and the bytes of an archive's objects
object_store       requests to the store, and what their errors mean
object_cache       objects of the bucket in a bounded folder
fetching           objects in memory, in that cache, or fetched: without waiting, or on a thread
config             DIR/archive.toml
archived_bundles   reads the entries that were released from this disk, for a `LogStore`
releasable         what may leave this disk: shown by one process, removed by another
open_log           opens a log of which entries may have been released

`ledger.archive` writes these objects and checks them; `ledger.reader` serves from them alone.
"""
