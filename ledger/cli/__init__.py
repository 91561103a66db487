"""The service's commands. Entry points in pyproject.toml join them to the command `ledger`.

init serve demo          make and run a ledger
token erase              access, and private values
backup recover           copy and restore; a log that is older than it was
fsck reindex             check the store, rebuild the index
retention                old entries: planned, decided, removed; legal holds
witness mirror           run a witness, or a mirror
tlog_mirror              a mirror of logs that send their entries
mirror_push              the mirrors that a ledger sends its log to
sink alarm               send entries to other tools; alarms on events
archive archive_changes  copies in buckets, and a check of one
archive_move             released entries move to another bucket
parquet                  events as Parquet files
doctor status            how a ledger on this machine is
key signer               the keys that sign: shown, rotated, encrypted, in a token
local_service            asks a service on this machine
cosigner                 shared by witness and tlog_mirror
reader place_options     the options of `serve --read-only`, and of a bucket
child                    a command that ends with the process that started it
followers                shared by sink, archive and mirror_push
folders                  shared: the argument DIRECTORY, and the kinds of folders
options                  shared: log lines, flags of settings, progress bars
"""

from ledger_client.cli.app import main as main
