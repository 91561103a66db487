"""The HTTP service of a ledger. Its modules in reading order:

settings        every setting, in one table
data_dir        the files of a ledger's folder
start_record    what was in it at the last start: which files are gone or changed since
secret_stores   opens what has a secret key of its own
live_settings   those that a running service takes anew at SIGHUP
loaded_files    files beside them, the same in all processes of a service
policy_file     the policy, as the folder has it
key_rotation    replaces the signing key: old and new sign together for a period
app             the life cycle: opens the parts, runs and stops them
open_parts      opens them
engine          the parts that only one process has: sequencer, signer, publisher
background      the tasks beside the requests
process_limits  open files, and pauses of the event loop
store_watch     watches the environments, open files and memory
context         the parts of a running service, as handlers get them
mirrored        the heads that are published, and a log that is mirrored

auth            who asks, and with which scopes
identities/     client certificates, and tokens of identity providers
token_admin     makes tokens, beside a running service
quotas          what each token may use in a time
admission       which appends are worked on

clock           the times of receipt, which never run backwards
ingest          the append path, from a body to the sequencer
append_results  the outcomes of appended events
work_pieces     divides a large append, so that other requests get their turn
append_thread   does the slow steps of appends beside the event loop
allowed_events  which events a token may append
secret_filter   refuses or masks events with secrets
private_fields  erasable fields: commitments, and the values behind them
old_values      private values that version 0.1 stored
conflicts       records an event that was refused because another has its id
otlp            logs of OpenTelemetry as events
otlp_decoder    decodes their records within a bounded amount of work
otlp_protobuf   decodes them from protobuf

query_pool      asks the query process, where searches run
queries/        the work of searches, and that process
query_text      reads the query of a request, or leaves one with an `@name` to the query process
stored_events   reads single events and bundles for routes
export_trailers the ends of exports, for readers that ask for them

audit_trail     reads and refusals as events of the log
masked_query    masks the secrets in the text of a query
report          what processes say of themselves
metrics         counters, and `/metrics`
follower_lag    how far followers are behind the log

operator_events events about what an operator did on the command line
outbox          appends them
backup          backups of a ledger's folder, and their restoration
backup_erasures destroys in an older copy what was erased since
backup_files    the plain files and folders of a backup, of which no link is followed
recovery_journal a file that is there while a recovery changes a folder
tracing          spans of requests, sent by OTLP/HTTP
pruning_journal  a pruning from its decision to its end
releasing       removes from this disk what an archive was shown to have
recovery        gets back what a restored ledger lacks
fsck            checks a folder
follower_fsck   checks the sinks and alarms in it
http/           requests and answers, whatever they are about
routes/         the resources, a module each
"""
