"""Who becomes another user, or leaves, in the middle of a request is still who did it."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
from django.http import HttpRequest

from ledger_client.integrations.django_impersonation import impersonator_key

PROGRAM = """
import asyncio, json, sys
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import include, path
from django.utils.functional import SimpleLazyObject

from ledger_client.testing import outbox

MIDDLEWARE = [
    "ledger_client.integrations.django.LedgerMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "hijack.middleware.HijackUserMiddleware",
    "impersonate.middleware.ImpersonateMiddleware",
    __name__ + ".token_users",
]
settings.configure(
    SECRET_KEY="for these tests alone",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "database"}},
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
        "django.contrib.messages", "django.contrib.admin", "hijack", "loginas", "django_su",
        "impersonate", "ledger_client.integrations.django.LedgerConfig",
    ],
    AUTHENTICATION_BACKENDS=[
        "django.contrib.auth.backends.ModelBackend", "django_su.backends.SuBackend",
    ],
    MIDDLEWARE=MIDDLEWARE,
    TEMPLATES=[{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": [
            "django.template.context_processors.request",
            "django.contrib.auth.context_processors.auth",
            "django.contrib.messages.context_processors.messages",
        ]},
    }],
    LOGIN_REDIRECT_URL="/send",
    LOGOUT_REDIRECT_URL="/send",
    LEDGER={"RECORDER": {"url": "http://127.0.0.1:1", "spool": "spool", "policy": "none"}},
)
django.setup()

from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import AsyncClient, Client

from ledger_client import audited


class TokenUser:
    # A user without a row, as of a token that says all.
    is_authenticated = True
    pk = id = 7

    def get_username(self):
        return "token"


def token_users(get_response):
    def middleware(request):
        name = request.headers.get("X-Token-Of")
        if name == "nobody":
            request.user = TokenUser()
            return get_response(request)
        if name:
            request.user = SimpleLazyObject(lambda: User.objects.get(username=name))
        return get_response(request)
    return middleware


@audited("order.sent")
def send(request):
    return HttpResponse()


@audited("order.sent")
async def send_async(request):
    return HttpResponse()


@audited("account.left")
def leave(request):
    logout(request)
    return HttpResponse()


@audited("account.entered")
def enter(request):
    login(request, jo, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponse()


urlpatterns = [
    path("send", send), path("send_async", send_async), path("leave", leave),
    path("enter", enter), path("hijack/", include("hijack.urls")),
    path("su/", include("django_su.urls")), path("", include("loginas.urls")),
    path("impersonate/", include("impersonate.urls")),
]
call_command("migrate", verbosity=0)
root = User.objects.create_superuser("root", "root@example.com", "secret")
jo = User.objects.create_user("jo", "jo@example.com", "secret")
FLOWS = {
    "hijack": (("post", "/hijack/acquire/", {"user_pk": jo.pk}), ("post", "/hijack/release/")),
    "su": (("post", f"/su/{jo.pk}/"), ("post", "/su/")),
    "loginas": (("post", f"/login/user/{jo.pk}/"), ("post", "/leave")),
    "impersonate": (("get", f"/impersonate/{jo.pk}/"), ("get", "/impersonate/stop/")),
}
done = []


def told(step):
    for event in outbox:
        done.append((step, event["action"], event["actor"], event.get("context", {})))
    outbox.clear()


def logged_in():
    client = Client()
    assert client.login(username="root", password="secret")
    outbox.clear()
    return client


def ask_async(client, **headers):
    other = AsyncClient()
    other.cookies = client.cookies
    assert asyncio.run(other.get("/send_async", headers=headers)).status_code == 200


for name, (begin, end) in FLOWS.items():
    client = logged_in()
    for step, (method, *request) in (("begin", begin), ("end", end)):
        assert getattr(client, method)(*request).status_code in (200, 302), name
        told(f"{name} {step}")
        assert client.get("/send").status_code == 200
        ask_async(client)
        told(f"{name} after {step}")
client = logged_in()
ask_async(client, **{"X-Token-Of": "jo"})
assert client.get("/send", headers={"X-Token-Of": "jo"}).status_code == 200
told("token")
ask_async(Client(), **{"X-Token-Of": "jo"})
told("token alone")
for one in (Client(), client):
    assert one.get("/send", headers={"X-Token-Of": "nobody"}).status_code == 200
told("token without a row")
assert client.post("/leave").status_code == 200
told("leave")
assert client.post("/enter").status_code == 200
told("enter")
assert logged_in().post("/enter").status_code == 200
told("enter as another")
sys.stdout.write(json.dumps(done))
"""

Told = dict[str, list[tuple[str, dict[str, Any], dict[str, Any]]]]

ROOT = {"type": "user", "id": "1", "name": "root"}
JO = {"type": "user", "id": "2", "name": "jo"}
AS_JO = {"type": "user", "id": "1", "on_behalf_of": JO}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The actions, actors and contexts of each step of the program, its sessions left out."""
    folder = tmp_path_factory.mktemp("impersonation")
    (folder / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, "LEDGER_RECORDER": "memory"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Told = {}
    for step, action, actor, context in json.loads(done.stdout):
        actor.pop("session", None)
        found.setdefault(step, []).append((action, actor, context))
    return found


@pytest.mark.parametrize("package", ["hijack", "su", "loginas", "impersonate"])
def test_what_an_administrator_does_as_a_user_is_the_administrators(
    told: Told, package: str
) -> None:
    done = [(action, actor) for action, actor, _ in told[f"{package} after begin"]]
    assert done == [("order.sent", AS_JO), ("order.sent", AS_JO)]


@pytest.mark.parametrize("package", ["hijack", "su", "loginas"])
def test_a_login_as_a_user_is_of_the_administrator_who_asked_for_it(
    told: Told, package: str
) -> None:
    (login,) = told[f"{package} begin"]
    assert login[:2] == ("user.login", {**ROOT, "on_behalf_of": JO})


@pytest.mark.parametrize("package", ["hijack", "su", "impersonate"])
def test_the_administrator_is_himself_when_he_comes_back(told: Told, package: str) -> None:
    done = [actor for _, actor, _ in told[f"{package} after end"]]
    assert done == [ROOT, ROOT]
    assert [actor for _, actor, _ in told.get(f"{package} end", [])] == [ROOT] * (
        package != "impersonate"
    )


def test_the_owner_of_a_token_is_the_actor_whoever_has_the_session(told: Told) -> None:
    assert [actor for _, actor, _ in told["token"]] == [JO, JO]
    assert [actor for _, actor, _ in told["token alone"]] == [JO]
    rowless = {"type": "user", "id": "7", "name": "token"}
    assert [actor for _, actor, _ in told["token without a row"]] == [rowless, rowless]


def test_a_call_that_logs_out_or_in_is_of_who_made_it(told: Told) -> None:
    left, entered, changed = (
        {action: (actor, context) for action, actor, context in told[step]}
        for step in ("leave", "enter", "enter as another")
    )
    assert left["account.left"][0] == left["user.logout"][0] == ROOT
    assert "actor_after" not in left["account.left"][1]
    assert entered["account.entered"][0] == entered["user.login"][0] == JO
    assert "logged_in_before" not in entered["user.login"][1]
    assert changed["account.entered"][0] == ROOT
    assert changed["account.entered"][1]["actor_after"] == JO
    assert changed["user.login"][0] == JO
    assert changed["user.login"][1]["logged_in_before"] == ROOT
    assert told["loginas end"][0][1] == AS_JO


def test_a_session_that_the_application_did_not_read_stays_unread() -> None:
    class Session(dict[str, Any]):
        accessed = False

        def get(self, key: str, default: Any = None) -> Any:
            raise AssertionError(key, default)

    request = cast("HttpRequest", SimpleNamespace(session=Session()))
    assert impersonator_key(request, SimpleNamespace(_meta=object())) is None
