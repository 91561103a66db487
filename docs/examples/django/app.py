"""Groups of users, with an audit trail, in Django: one file, with a database in memory.

`login` really logs in. `LedgerConfig` records logins, and changes of users and groups.
"""

import os

import django
from django.conf import settings
from django.contrib.auth.decorators import permission_required
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from ledger.demo.scratch import scratch_ledger
from ledger_client import audited


def configure() -> None:
    settings.configure(
        SECRET_KEY=os.urandom(32).hex(),
        ALLOWED_HOSTS=["127.0.0.1", "localhost"],
        ROOT_URLCONF=__name__,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": "file:example?mode=memory&cache=shared",
            }
        },
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "ledger_client.integrations.django.LedgerConfig",
        ],
        MIDDLEWARE=[
            "ledger_client.integrations.django.LedgerMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        LEDGER={
            "RECORDER": {
                "url": os.environ["LEDGER_URL"],
                "token": os.environ["LEDGER_TOKEN"],
                "policy": os.environ["LEDGER_POLICY"],
                "spool": os.environ["LEDGER_SPOOL"],
                "service": "django-example",
            },
            "PROXIES": ["10.0.0.0/8"],
            "MODELS": {"auth.User": ["last_login"], "auth.Group": []},
        },
    )
    django.setup()


def log_in(request: HttpRequest) -> HttpResponse:
    from django.contrib.auth import authenticate, login

    user = authenticate(request, username=request.POST["user"], password=request.POST["password"])
    if user is None:
        raise PermissionDenied
    login(request, user)
    return HttpResponse()


@audited("group.joined", target=lambda group: ("group", group))
@permission_required("auth.change_user", raise_exception=True)  # recorded as `denied`
def join(_: HttpRequest, user: str, group: str) -> JsonResponse:
    from django.contrib.auth.models import Group, User

    joining = User.objects.get(username=user)
    joining.groups.add(Group.objects.get(name=group))
    return JsonResponse({"groups": [each.name for each in joining.groups.all()]})


urlpatterns = [path("login", log_in), path("users/<user>/groups/<group>", join)]

if __name__ == "__main__":
    with scratch_ledger():  # does nothing where LEDGER_URL is set
        configure()
        from django.contrib.auth.models import Group, User

        call_command("migrate", verbosity=0)
        User.objects.create_superuser("ann", password="ann")  # noqa: S106 - an example
        User.objects.create_user("jo", password="jo")  # noqa: S106 - an example
        Group.objects.create(name="admins")
        call_command("runserver", os.environ.get("PORT", "8000"), use_reloader=False)
