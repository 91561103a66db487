"""Recording from an application: fast for the caller, safe at a crash, sent by one thread.

    Recorder.record ──▶ spool folder ──▶ sender thread ──▶ LedgerClient ──▶ the ledger
        checks,          frames on        batches,          verifies each
        masks,           the disk         retries           acknowledgement
        numbers                           frees what is verified

What an application uses, in reading order:

recorder            `Recorder`: records events; `use_recorder` sets the one of the application
async_recorder      `AsyncRecorder`: the same for an event loop
options             the options of a recorder, and the errors of a spool that refuses an event
arguments           the arguments of `record` as the fields of an event
context             `audit_context`: who acts, from where, in which request
acting              functions that name the actor, bound to a context or asked at a call's begin
executors           executors that hand the audit context on
decorator           `@audited`: each call of a function is an event
awaitables          whether a call ends when what it returned is awaited
exception_outcomes  the outcome that an exception stands for
diff                `changes` computed from two states of an object
frozen_value        a copy of any value, to compare and to show
view_request        the outcome of a view, from its response
logging_handlers    a `logging.Handler` and a structlog processor

How an event becomes bytes:

jsonable            any Python value as JSON that an event may hold
named_values        values that are secret because of a name beside them
truncation          an event that is too long, made to fit
encoding            the mask, the commitments, the canonical JSON, and the number of the recorder

How the bytes reach the ledger:

sink                where a recorder's events go: the spool, or the fallback if that takes none
session             all that a recorder has in one process, and what happens when the spool is full
memory              the sink of tests, which keeps events and sends none
fallback            memory and standard error, for events that the spool does not take
frames              the bytes of a segment file
spool_dir           the directories of all recorders on one spool, and the locks on them
open_segment        a segment file while it is open
spool               the writing side of one directory: numbered frames, segments, syncing
unsynced            the frames that the spool has not synced yet
synced_marks        how much of each segment is on the disk, so that lost events are noticed
spool_reader        the reading side of one directory: unsent frames, and freeing them
dead_letters        the file of events that the ledger never takes
meta_events         the recorder's own events: dropped, rejected, damaged
delivery            one batch to the ledger, and a verified outcome for each event
probe               whether one event is refused on the way, or any request would be
sender              the background thread
fork_hooks          what recorders do at a fork and at the exit

The weak spot is `spool.Spool`: signal handlers may record in the middle of a recording, so its
locks are reentrant, and each of its invariants has to hold at every write.
"""
