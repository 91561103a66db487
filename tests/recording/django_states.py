"""Prints what `diff` and `snapshot` make of a Django model. A process of its own, since a process
has one configuration of Django, and other tests have another.
"""

import datetime as dt
import json
import sys

import django
from django.conf import settings

from ledger_client import diff, snapshot

settings.configure(INSTALLED_APPS=[], DATABASES={}, USE_TZ=True)
django.setup()

from django.db import models  # noqa: E402 - it wants the settings


class Ticket(models.Model):
    title: "models.CharField[str, str]" = models.CharField(max_length=100)
    due: "models.DateField[dt.date, dt.date]" = models.DateField(null=True)

    class Meta:
        app_label = "recording_tests"


ticket = Ticket(id=1, title="old")
before = snapshot(ticket)
ticket.title = "new"
ticket.due = dt.date(2026, 1, 1)
# As after .only("id", "title"): the rest is not loaded.
deferred = Ticket.from_db("default", ["id", "title"], [1, "old"])
sys.stdout.write(json.dumps({"diff": diff(before, ticket), "deferred": snapshot(deferred)}))
