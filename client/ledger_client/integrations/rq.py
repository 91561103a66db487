"""RQ: a job works in the audit context of the code that enqueued it.

    queue = Queue(connection=redis, job_class=AuditedJob)
    rq worker --job-class ledger_client.integrations.rq.AuditedJob

The context is in the job's `meta` as JSON, so whoever can write to Redis can name any actor. A job
that was enqueued outside of any audit context starts with an empty one. `context.task` and
`context.task_id` name the job.
"""

import os
from contextlib import suppress
from typing import Any, Final

from rq.job import Job

from ledger_client.recording.context import restored_job, sendable_scope
from ledger_client.recording.recorder import recorder_in_use

META: Final = "ledger_audit_scope"
"""The member of a job's `meta` that holds the audit context."""

FLUSH_S: Final = 5.0
_worker_pid: Final = os.getpid()


class AuditedJob(Job):  # type: ignore[misc, unused-ignore] # where RQ isn't installed
    """A job with the audit context of its `enqueue`."""

    @classmethod
    def create(cls, *args: Any, **kwargs: Any) -> Job:
        """As `Job.create`."""
        job = super().create(*args, **kwargs)
        # The dict is the caller's, who may give it to others' jobs too.
        job.meta = {**job.meta, META: sendable_scope()}
        return job

    def perform(self) -> Any:
        """As `Job.perform`; events of a forked worker are sent before it ends."""
        try:
            with restored_job(self.meta.get(META), task=str(self.func_name), task_id=self.id):
                return super().perform()
        finally:
            recorder = recorder_in_use()
            # The child that RQ forks for a job ends without the exit functions of Python.
            if recorder is not None and os.getpid() != _worker_pid:
                with suppress(Exception):
                    recorder.flush(FLUSH_S)
