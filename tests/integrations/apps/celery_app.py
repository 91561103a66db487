"""A Celery application whose worker forks its children, as `celery worker` does by default."""

import json
import os
import signal
from typing import Any

import celery

from ledger_client import Recorder, audited, use_recorder
from ledger_client.integrations.celery import audit_tasks

SETTINGS: dict[str, Any] = json.loads(os.environ["SHOP"])

recorder = use_recorder(Recorder(**SETTINGS["recorder"]))
app = celery.Celery("shop", broker="filesystem://")
app.conf.broker_transport_options = SETTINGS["folders"]
app.conf.worker_hijack_root_logger = False
audit_tasks()
# Before any child is forked: the recorder has a spool and threads then.
recorder.record("worker.started")


@app.task(name="refund")  # type: ignore[untyped-decorator, unused-ignore] # no types
@audited("payment.refunded", target=lambda payment: ("payment", payment))
def refund(payment: str) -> None:
    pass


@app.task(name="refund_and_die")  # type: ignore[untyped-decorator, unused-ignore] # no types
def refund_and_die(payment: str) -> None:
    refund(payment)
    os.kill(os.getpid(), signal.SIGKILL)
