"""The HTTP service of a ledger. Its modules in reading order:

settings        every setting, in one table
data_dir        the files of a ledger's folder
app             the life cycle: opens the parts, runs and stops them
open_parts      opens them
background      the tasks beside the requests
context         the parts of a running service, as handlers get them
ingest          the append path, from a body to the sequencer
append_thread   does the slow steps of appends beside the event loop
secret_filter   refuses or masks events with secrets
private_fields  erasable fields: commitments, and the values behind them
query_pool      asks the query process, where searches run
queries/        the work of searches, and that process
stored_events   events of the log as answers show them
auth            bearer tokens
token_admin     makes tokens, beside a running service
outbox          appends the events that `token_admin` leaves
backup          backups of a ledger's folder, and their restoration
backup_erasures destroys in an older copy what was erased since
recovery        gets back what a restored ledger lacks
fsck            checks a folder
http/           requests and answers, whatever they are about
routes/         the resources, a module each
"""
