"""Prints what is recorded of each scenario, and what the system checks say."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, cast
from unittest.mock import patch

import django
from django.conf import settings

from ledger_client import Recorder, use_recorder

recorded: list[Any] = []
scenarios: dict[str, list[Any]] = {}


class Recorded:
    """Stands in for a recorder."""

    def record_quietly(self, action: str, **event: Any) -> None:
        recorded.append({"action": action, **event})


use_recorder(cast("Recorder", Recorded()))
settings.configure(
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "tests.integrations.apps.orders",
        "ledger_client.integrations.django.LedgerConfig",
    ],
    MIDDLEWARE=["ledger_client.integrations.django.LedgerMiddleware"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    LEDGER={
        "MODELS": {
            "orders.Customer": {
                "exclude": ["note"],
                "private": ["email"],
                "masked": ["iban"],
                "subject": "user",
            },
            "orders.Order": [],
            "orders.Invoice": [],
            "orders.Setting": [],
            "orders.ApiKey": [],
            "orders.Token": {"masked": ["key"]},
        }
    },
    USE_TZ=True,
    SECRET_KEY="key of the tests",
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402 - they need the settings
from django.core import checks  # noqa: E402 - they need the settings
from django.core.management import call_command  # noqa: E402 - they need the settings
from django.db import IntegrityError, connection, transaction  # noqa: E402 - they need the settings
from django.db.models import F  # noqa: E402 - they need the settings
from django.db.models.signals import pre_delete  # noqa: E402 - they need the settings

from ledger_client.integrations import django_models  # noqa: E402 - as above
from ledger_client.integrations.django_bulk import audited_rows  # noqa: E402 - as above
from tests.integrations.apps.orders.models import (  # noqa: E402 - as above
    ApiKey,
    Customer,
    Order,
    Setting,
    Token,
)

call_command("migrate", run_syncdb=True, verbosity=0)


@contextmanager
def scenario(name: str) -> Iterator[None]:
    recorded.clear()
    yield
    scenarios[name] = [shown(event) for event in recorded]


def shown(event: dict[str, Any]) -> dict[str, Any]:
    """The event without its time, and a private value as a list of value and subject."""
    del event["time"]
    text = json.dumps(event, default=lambda it: [it.value, it.subject])
    return cast("dict[str, Any]", json.loads(text))


user = User.objects.create(username="ann")
with scenario("a customer"):
    ann = Customer.objects.create(user=user, email="ann@example.com")
    ann.email, ann.iban = "jo@example.com", "DE01"
    ann.save()
with scenario("a name that shows a private value"):
    ann.note = "shown"
    ann.iban = "DE02"
    ann.save()
with scenario("a friend"):
    friend = Customer.objects.create(email="x@example.com")
    recorded.clear()
    ann.friends.add(friend)
with scenario("bulk_create"):
    orders = Order.objects.bulk_create(
        Order(customer=ann if n < 3 else None, payer=ann, total=n) for n in range(40)
    )
with scenario("update"):
    Order.objects.filter(total__lt=3).update(state="sent", total=F("total") + 1)
with scenario("an update of many"):
    Order.objects.update(state="paid")
with scenario("an update of none"):
    Order.objects.filter(total=-1).update(state="paid")
with scenario("bulk_update"):
    few = orders[:2]
    for order in few:
        order.state, order.total = "lost", order.pk
    Order.objects.bulk_update(few, ["state", "total"])
with scenario("a value that the database computes"):
    orders[2].total = F("total") + 1
    orders[2].save()
with scenario("a reverse relation"):
    friend.order_set.add(orders[3])  # type: ignore[attr-defined] # made by the field of Order
with scenario("rows of an unaudited manager"):
    Customer.objects.update(iban="DE03")
    audited_rows(Customer.objects.filter(pk=friend.pk)).update(iban="DE04", email="y@example.com")
with scenario("a write that is rolled back"), suppress(IntegrityError), transaction.atomic():
    Order.objects.update(state="gone")
    raise IntegrityError
with scenario("a deletion"):
    friend.delete()
with scenario("a deletion with a default"):
    Customer.objects.filter(pk=ann.pk).delete()
with scenario("secrets in a column of values"):
    setting = Setting.objects.create(name="api_key", value="s3cret")
    setting.value = "s3cret too"
    setting.save()
    Setting.objects.filter(name="api_key").update(value="s3cret as well")
    setting.value = "s3cret again"
    Setting.objects.bulk_update([setting], ["value"])
    setting.delete()
    Setting.objects.bulk_create(Setting(name="smtp_password") for _ in range(33))
    Setting.objects.update(value="s3cret of many")
    ApiKey.objects.create(value="s3cret of a model")
    ApiKey.objects.update(value="s3cret of models")
with scenario("a column of values"):
    setting = Setting.objects.create(name="theme", value="dark")
    Setting.objects.filter(name="theme").update(value="light")
with scenario("a key that is set before the row is saved"):
    order = Order(pk=777, state="new", total=1)
    order.save()
with scenario("a save of some fields"):
    order.state, order.total = "sent", 9
    order.save(update_fields=["state"])
with scenario("a save of a foreign key by its column"):
    payer = Customer.objects.create(user=user, email="z@example.com")
    order.customer = payer
    recorded.clear()
    order.save(update_fields=["customer_id"])
with scenario("an update of a foreign key"):
    Order.objects.filter(pk=777).update(customer=None, payer=payer)
with scenario("a save without a change"):
    order.refresh_from_db()
    order.save()
with scenario("a deletion of a row with deferred fields, in a transaction"), transaction.atomic():
    Order.objects.defer("state", "total").get(pk=777).delete()
    assert not recorded
with scenario("a row that has no name"):
    Setting.objects.create(name="nameless")
with (
    scenario("a broken transaction"),
    suppress(transaction.TransactionManagementError),
    transaction.atomic(),
):
    with suppress(IntegrityError):
        User.objects.create(username="ann")
    Setting.objects.create(name="after an error")
with (
    scenario("a failed save, a change by SQL, and a save of what is not recorded"),
    # What ends gives its number to what begins; here at once.
    patch.object(
        django_models, "id", lambda it: 1 if isinstance(it, FrameType) else id(it), create=True
    ),
):
    order = Order.objects.create(state="kept")
    recorded.clear()
    with suppress(IntegrityError):
        order.total = cast("int", None)
        order.save()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE orders_order SET state = 'by SQL' WHERE id = %s", [order.pk])
    User.objects.create(username="another")
with scenario("a deletion of several rows"):
    some = [Order.objects.create(total=total).pk for total in (501, 502, 503)]
    recorded.clear()
    Order.objects.filter(pk__in=some).delete()


def write_orders(*, instance: Customer, **_: Any) -> None:
    Order.objects.filter(payer=instance).update(state="cancelled")
    Order.objects.bulk_create([Order(state="noted")])


with scenario("a deletion with a handler that writes many rows"):
    payer = Customer.objects.create(email="p@example.com")
    Order.objects.create(payer=payer)
    recorded.clear()
    pre_delete.connect(write_orders, sender=Customer)
    payer.delete()
    pre_delete.disconnect(write_orders, sender=Customer)
with scenario("keys that are secrets"):
    tokens = [Token.objects.create(key=key) for key in ("s3cret", "s3cret too")]
    tokens[0].uses = 1
    tokens[0].save()
    Token.objects.filter(key="s3cret").update(uses=2)
    tokens[0].customers.add(ann := Customer.objects.create(email="a@example.com"))
    ann.token_set.clear()  # type: ignore[attr-defined] # made by the field of Token
    tokens[0].delete()
with scenario("a deletion that cascades"):
    user.delete()
output = {
    "events": scenarios,
    "keys": [order.pk for order in orders],
    "some": some,
    "unseen": [str(each) for each in checks.run_checks() if each.id == "ledger.W005"],
}
sys.stdout.write(json.dumps(output))
