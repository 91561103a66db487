"""Sends tasks from requests of two users and from none, runs the worker, and prints the events."""

import json
import sys

import django
from django.conf import settings

from ledger_client import audit_context, capture_scope, use_recorder
from ledger_client.testing import MemoryRecorder

recorder = MemoryRecorder(actor=("process", "worker"))
use_recorder(recorder)
settings.configure(
    INSTALLED_APPS=[
        "django_tasks",
        "django_tasks_db",
        "ledger_client.integrations.django.LedgerConfig",
    ],
    MIDDLEWARE=["ledger_client.integrations.django.LedgerMiddleware"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    TASKS={"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}},
    USE_TZ=True,
)
django.setup()

from django.core.management import call_command  # noqa: E402 - they need the settings

from tests.integrations.apps.tasks.jobs import refund  # noqa: E402 - they need the settings

call_command("migrate", verbosity=0)
for user in ("jo", "kim"):
    with audit_context(actor=("user", user), request_id=f"r-{user}"):
        refund.enqueue(f"of {user}", capture_scope())
refund.enqueue("of nobody", capture_scope())
with audit_context(actor=("user", "who started the worker")):
    call_command("db_worker", "--batch", "--no-startup-delay", "--interval=0", verbosity=0)
sys.stdout.write(json.dumps(list(recorder.events)))
