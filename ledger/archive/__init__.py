"""A log in an S3-compatible bucket: uploaded as it grows, verified and restored from there alone.

object_lock   whether the bucket lets anybody delete objects
ids           the table of ids of a full segment
sealed        compares the objects of full segments with their names
local_tree    the tree of a head, from the tiles of the log on this disk
trial         tries a bucket before an archive is in it
uploader      uploads the new entries, tiles and heads
sealed_uploader  uploads the objects of full segments
release_check  shows that the bucket has what may leave the local disk
worker        the process of one archive, a follower (`ledger.follow`)
reader        reads an archive that isn't trusted, by a policy
edge          the tiles at the right edge of the tree, and what mends them
check         checks a whole archive, and names what is missing or damaged
restore       makes a ledger of an archive

An archive is a log as c2sp.org/tlog-tiles has it, so the programs of others read it too. An object
is written once: only the checkpoint is replaced, and never by a smaller one.
"""
