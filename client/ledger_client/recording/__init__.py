"""Recording from an application: fast for the caller, safe at a crash, sent by one thread.

    Recorder.record ──▶ spool folder ──▶ sender thread ──▶ LedgerClient ──▶ the ledger
        checks,          frames on        batches,          verifies each
        masks,           the disk         retries           acknowledgement
        numbers                           frees what is verified

frames      what stands in a segment file, as bytes
spool       the folder of one recorder that lives: numbered frames, segments, syncing
drain       the same folder read from the other side: what isn't sent yet, and freeing it
folder      the folders of all recorders on one spool: who lives, who left something behind
overflow    what happens when the spool is full
deadletter  what the ledger never takes, with the reason
notices     the recorder's own events: dropped, rejected, damaged
sender      the background thread
recorder    `Recorder`, which applications use; asynchronous: the same for an event loop
words       what an application says, as an event
context     who, from where, in which request: `audit_context`
audited     `@audited`; outcomes: which exception means what
diff        `changes` from two states of an object; plain: any value as JSON
logs        a logging.Handler and a structlog processor
process     forks and exits
"""
