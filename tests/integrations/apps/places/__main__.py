"""Prints what is recorded of each scenario."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import django
from django.conf import settings

from ledger_client import Recorder, use_recorder

recorded: list[Any] = []
scenarios: dict[str, list[Any]] = {}


class Recorded:
    """Stands in for a recorder."""

    def record_quietly(self, action: str, **arguments: Any) -> None:
        changes = [change for change in arguments["changes"] if change["path"] != "/id"]
        recorded.append((action, changes))


use_recorder(cast("Recorder", Recorded()))
settings.configure(
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "tests.integrations.apps.places",
        "ledger_client.integrations.django.LedgerConfig",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    LEDGER={"MODELS": {"places.Place": [], "auth.User": ["last_login"]}},
    USE_TZ=True,
)
django.setup()

from django.contrib.auth.models import Group, Permission, User  # noqa: E402 - they need the settings
from django.contrib.contenttypes.models import ContentType  # noqa: E402 - they need the settings
from django.db import IntegrityError, connection, models, transaction  # noqa: E402 - they need the settings
from django.db.models.signals import post_save, pre_save  # noqa: E402 - they need the settings

from tests.integrations.apps.places.models import Inn, Place  # noqa: E402 - they need the settings

with connection.schema_editor() as editor:
    for model in (Place, Inn, ContentType, Permission, Group, User):
        editor.create_model(model)


@contextmanager
def scenario(name: str) -> Iterator[None]:
    recorded.clear()
    yield
    scenarios[name] = list(recorded)


@contextmanager
def handler(signal: models.signals.ModelSignal, handle: Callable[[Place], None]) -> Iterator[None]:
    """Call this once, at the next signal, before the receiver of the integration."""
    is_called = False

    def receive(*, instance: Place, **_: Any) -> None:
        nonlocal is_called
        if not is_called:
            is_called = True
            handle(instance)

    receivers = list(signal.receivers)
    signal.connect(receive)
    signal.receivers.insert(0, signal.receivers.pop())
    signal.sender_receivers_cache.clear()
    yield
    signal.receivers = receivers
    signal.sender_receivers_cache.clear()


def rename(place: Place, name: str) -> None:
    place.name = name
    place.save()


place = Place(name="new")
with (
    scenario("a handler that saves again"),
    handler(post_save, lambda it: rename(it, f"{it.name}!")),
):
    place.save()
with (
    scenario("a handler that saves another instance of it"),
    handler(post_save, lambda it: rename(Place.objects.get(pk=it.pk), f"{it.name}?")),
):
    rename(place, "same")
with (
    scenario("a handler that saves before it"),
    handler(pre_save, lambda it: rename(Place.objects.get(pk=it.pk), "first")),
):
    rename(place, "second")


def fail(_: Place) -> None:
    with suppress(IntegrityError), transaction.atomic():
        Place(pk=place.pk, name=None).save()


with scenario("a save that failed, and another one"), handler(post_save, fail):
    rename(place, "third")
with scenario("a child"):
    inn = Inn.objects.create(name="inn")
    rename(inn, "inn 2")
    inn.delete()
friend = Place.objects.create(name="friend")
other = Place.objects.create(name="other")
with scenario("a member that is none"):
    place.friends.remove(friend)
place.friends.add(friend)
with scenario("some that are members"):
    place.friends.remove(friend, other)
place_key = place.pk
for new in ("left", "right"):
    Place.objects.create(name=new).friends.add(place)
with scenario("a deletion of a member"):
    Place.objects.get(name="left").delete()
with scenario("a deletion of many members"):
    Place.objects.exclude(pk=place.pk).delete()
group = Group.objects.create(name="staff")
user = User.objects.create(username="u_1")
user.groups.add(group)
with scenario("a deletion of what is not recorded, at the end of what is"):
    group.delete()
group = Group.objects.create(name="staff")
user.groups.add(group)
user_key, group_key = user.pk, group.pk
with scenario("a deletion of the owner"):
    user.delete()
with scenario("a deletion that is rolled back"), suppress(IntegrityError), transaction.atomic():
    Place.objects.create(name="last").friends.add(place)
    place.delete()
    raise IntegrityError
keys = {"friend": friend.pk, "place": place_key, "user": user_key, "group": group_key}
sys.stdout.write(json.dumps({"events": scenarios, **keys}))
