"""A read-only service over an archive: the log is in a bucket, and a bounded cache of it here.

id_tables       which entry has which id
archived_log    the log under one verified head, as routes and queries read it
archived_index  the index, segment by segment
follower        which head is served: never an older one, never one of another history
data_dir        the folder of a reader
fsck            checks that folder, without the bucket
open_archive    opens these parts
parquet_files   Parquet in the bucket, for `ledger sql`
app             the service

Any number of readers serve one archive, each with a folder of its own. What a reader serves it has
verified: tiles by the head, bundles by the tiles; each answer holds the proofs that a ledger's has.
"""
