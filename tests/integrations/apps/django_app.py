"""The shop as a Django application, on `runserver` or, with the argument `asgi`, on uvicorn."""

import os
import sys
from typing import Any

import django
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import include, path

from tests.integrations.apps import shop

settings.configure(
    SECRET_KEY="for these tests alone",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["DATABASE"],
            "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
        }
    },
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.admin",
        "rest_framework",
        "ledger_client.integrations.django.LedgerConfig",
    ],
    MIDDLEWARE=[
        "ledger_client.integrations.django.LedgerMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    LEDGER={
        "RECORDER": shop.recorder_settings(),
        "PROXIES": shop.PROXIES,
        "MODELS": {"auth.User": ["last_login", "email"], "auth.Group": []},
    },
)
django.setup()

from django.contrib.auth import (  # noqa: E402 - these need the settings
    aauthenticate,
    alogin,
    alogout,
    authenticate,
    login,
    logout,
)
from django.contrib.auth.models import Group, User  # noqa: E402 - they need the settings
from django.db import transaction  # noqa: E402 - they need the settings
from django.db.models import F  # noqa: E402 - they need the settings


def error(request: HttpRequest) -> Exception | None:
    errors = {"forbidden": PermissionDenied(), "broken": RuntimeError("broken")}
    return errors.get(request.GET.get("error", ""))


def log_in(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username=request.GET["user"], password=request.GET["password"])
    if user is None:
        return HttpResponse(status=401)
    login(request, user)
    return HttpResponse()


async def log_in_async(request: HttpRequest) -> HttpResponse:
    user = await aauthenticate(
        request, username=request.GET["user"], password=request.GET["password"]
    )
    if user is None:
        return HttpResponse(status=401)
    await alogin(request, user)
    return HttpResponse()


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse()


async def log_out_async(request: HttpRequest) -> HttpResponse:
    await alogout(request)
    return HttpResponse()


def log_in_and_refund(request: HttpRequest, payment: str) -> HttpResponse:
    log_in(request)
    return refund(request, payment)


async def log_in_and_refund_async(request: HttpRequest, payment: str) -> HttpResponse:
    await log_in_async(request)
    return await refund_async(request, payment)


def refund(request: HttpRequest, payment: str) -> HttpResponse:
    return HttpResponse(shop.refund(payment, error(request)))


async def refund_async(request: HttpRequest, payment: str) -> HttpResponse:
    return HttpResponse(await shop.refund_async(payment, error(request)))


def move(_: HttpRequest, payment: str) -> HttpResponse:
    return HttpResponse(shop.move(payment))


async def move_async(_: HttpRequest, payment: str) -> HttpResponse:
    return HttpResponse(await shop.move_async(payment))


def report(_: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(shop.report())


def feed(_: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(shop.feed())


async def report_async(_: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(shop.report_async())


def rename(_: HttpRequest, old: str, new: str) -> HttpResponse:
    """A change of a user, with what is secret and what is left out."""
    user = User.objects.get(username=old)
    user.username = new
    user.email = f"{new}@example.com"
    user.set_password("hunter2")
    user.save()
    user.save()
    return HttpResponse()


def group(_: HttpRequest, name: str) -> HttpResponse:
    """A group made, renamed by an expression in the database, and deleted."""
    made = Group.objects.create(name=name)
    made.name = F("name")
    made.save()
    made.refresh_from_db()
    made.name = f"{name}s"
    made.save(update_fields=["name"])
    made.delete()
    return HttpResponse()


async def group_async(_: HttpRequest, name: str) -> HttpResponse:
    made = await Group.objects.acreate(name=name)
    made.name = f"{name}s"
    await made.asave()
    await made.adelete()
    return HttpResponse()


def members(_: HttpRequest, username: str) -> HttpResponse:
    """A user who joins a group twice and leaves it, and is put in and out of it."""
    user = User.objects.get(username=username)
    made = Group.objects.create(name=f"friends of {username}")
    user.groups.add(made)
    user.groups.add(made)
    user.groups.remove(made)
    made.user_set.add(user)  # type: ignore[attr-defined] # made by the field of User
    made.user_set.clear()  # type: ignore[attr-defined] # made by the field of User
    return HttpResponse()


def roll_back(_: HttpRequest, name: str) -> HttpResponse:
    """A change that is taken back, and one that stays."""
    with transaction.atomic():
        Group.objects.create(name=f"not-{name}")
        transaction.set_rollback(True)
    with transaction.atomic():
        Group.objects.create(name=name)
    return HttpResponse()


def close_account(request: HttpRequest) -> HttpResponse:
    """A user who deletes himself, and what he does after that."""
    request.user.delete()
    shop.refund("p_1")
    logout(request)
    return HttpResponse()


def farewell(request: HttpRequest, name: str) -> HttpResponse:
    """A change that is committed when its user has logged out."""
    with transaction.atomic():
        Group.objects.create(name=name)
        logout(request)
    return HttpResponse()


urlpatterns: list[Any] = [
    path("", include("tests.integrations.apps.django_views")),
    path("login", log_in),
    path("logout", log_out),
    path("login_and_refund/<payment>", log_in_and_refund),
    path("refund/<payment>", refund),
    path("move/<payment>", move),
    path("report", report),
    path("feed", feed),
    path("rename/<old>/<new>", rename),
    path("group/<name>", group),
    path("members/<username>", members),
    path("farewell/<name>", farewell),
    path("close_account", close_account),
    path("roll_back/<name>", roll_back),
    path("async/login", log_in_async),
    path("async/logout", log_out_async),
    path("async/login_and_refund/<payment>", log_in_and_refund_async),
    path("async/refund/<payment>", refund_async),
    path("async/move/<payment>", move_async),
    path("async/report", report_async),
    path("async/group/<name>", group_async),
]

if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    for number in range(20):
        User.objects.create_user(f"u_{number}", password="secret")
    User.objects.create_user("staff", password="secret", is_staff=True)
    if sys.argv[2:] == ["asgi"]:
        import uvicorn
        from django.core.asgi import get_asgi_application

        uvicorn.run(
            get_asgi_application(),
            port=int(sys.argv[1]),
            proxy_headers=False,
            lifespan="off",
            log_level="warning",
        )
    else:
        call_command("runserver", f"127.0.0.1:{sys.argv[1]}", use_reloader=False)
