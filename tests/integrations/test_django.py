"""Django's own: logins, models, settings."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger_client.fork_safe_masking import keyed_rules
from ledger_client.integrations.request_info import ANONYMOUS
from ledger_core.event.secrets import default_rules
from tests.integrations.conftest import FRAMEWORKS
from tests.integrations.test_requests import OpenShop
from tests.recording.conftest import Running

each_view = pytest.mark.parametrize(
    ("key", "root"),
    [(key, root) for key, each in FRAMEWORKS.items() if each.has_logins for root in each.roots],
)
each_server = pytest.mark.parametrize(
    "key", [key for key, each in FRAMEWORKS.items() if each.has_logins]
)


def said(event: dict[str, Any]) -> tuple[str, str]:
    return event["action"], event["outcome"]


@each_view
def test_logins_and_logouts_are_recorded_by_themselves(
    open_shop: OpenShop, name: str, key: str, root: str
) -> None:
    shop = open_shop(key)
    cookie = shop.log_in("u_5", agent=name, root=root)
    headers = {"Cookie": cookie}
    assert shop.ask("POST", f"{root}/logout", agent=name, headers=headers).status == 200
    assert shop.ask("POST", f"{root}/logout", agent=name, headers=headers).status == 200
    log_in, log_out = shop.events(name, 2)
    assert said(log_in) == ("user.login", "success")
    assert said(log_out) == ("user.logout", "success")
    key = cookie.partition("=")[2]
    for event in (log_in, log_out):
        assert event["actor"]["session"] == hashlib.sha256(key.encode()).hexdigest()[:32]
        assert (event["actor"]["type"], event["actor"]["name"]) == ("user", "u_5")
        assert event["source"]["ip"] == "127.0.0.1"


@each_view
def test_a_refused_login_says_which_name_was_tried_and_not_with_what(
    open_shop: OpenShop, name: str, key: str, root: str
) -> None:
    shop = open_shop(key)
    for user in ("u_5", "nobody"):
        path = f"{root}/login?user={user}&password=guess"
        assert shop.ask("POST", path, agent=name).status == 401
    events = shop.events(name, 2)
    for event, user in zip(events, ("u_5", "nobody"), strict=True):
        assert said(event) == ("user.login", "failure")
        assert event["actor"] == ANONYMOUS
        assert event["targets"] == [{"type": "username", "id": user}]
        assert "guess" not in str(event)


@each_view
def test_after_a_login_the_same_request_has_its_user(
    open_shop: OpenShop, name: str, key: str, root: str
) -> None:
    shop = open_shop(key)
    cookie = shop.log_in("u_6", agent="another", root=root)
    answer = shop.ask(
        "POST",
        f"{root}/login_and_refund/p_1?user=u_5&password=secret",
        agent=name,
        headers={"Cookie": cookie},
    )
    assert answer.status == 200
    *_, refund = shop.events(name, 2)
    assert refund["action"] == "payment.refunded"
    assert refund["actor"]["name"] == "u_5"


@each_server
def test_the_change_of_a_model_is_recorded_with_what_changed(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    assert shop.ask("POST", "/rename/u_8/jo", agent=name, user="u_1").status == 200
    (event,) = shop.events(name, 1)
    assert said(event) == ("auth.user.updated", "success")
    assert event["actor"]["name"] == "u_1"
    (target,) = event["targets"]
    assert target["type"] == "auth.user"
    changes = {change["path"]: change for change in event["changes"]}
    assert changes["/username"] == {"path": "/username", "before": "u_8", "after": "jo"}
    # It is seen that the password was changed, and no more; the address is left out by a setting.
    assert set(changes) == {"/username", "/password"}
    assert changes["/password"]["after"] == {"masked": "password"}


@each_view
def test_models_are_recorded_from_their_making_to_their_end(
    open_shop: OpenShop, name: str, key: str, root: str
) -> None:
    shop = open_shop(key)
    group = f"{key}{root}".translate({ord(" "): "-", ord("/"): "-"})
    assert shop.ask("POST", f"{root}/group/{group}", agent=name, user="u_1").status == 200
    made, renamed, deleted = shop.events(name, 3)
    assert [event["action"] for event in (made, renamed, deleted)] == [
        "auth.group.created",
        "auth.group.updated",
        "auth.group.deleted",
    ]
    number = int(made["targets"][0]["id"])
    assert made["changes"] == [
        {"path": "/id", "after": number},
        {"path": "/name", "after": group},
    ]
    assert renamed["changes"] == [{"path": "/name", "before": group, "after": f"{group}s"}]
    assert deleted["changes"] == [
        {"path": "/id", "before": number},
        {"path": "/name", "before": f"{group}s"},
    ]
    names = [group, f"{group}s", f"{group}s"]
    for event, target_name in zip((made, renamed, deleted), names, strict=True):
        target = {"type": "auth.group", "id": str(number), "name": target_name}
        assert event["targets"] == [target]
        assert event["actor"]["name"] == "u_1"


@each_server
def test_members_that_come_and_go_are_recorded_with_both_ends(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    assert shop.ask("POST", "/members/u_9", agent=name, user="u_1").status == 200
    made, *events = shop.events(name, 5)
    group = made["targets"][0]
    user = events[0]["targets"][0]
    assert [user["type"], group["type"]] == ["auth.user", "auth.group"]
    found = [(event["action"], event["targets"], event["changes"]) for event in events]
    assert found == [
        ("auth.user.updated", [user, group], [{"path": "/groups", "after": [int(group["id"])]}]),
        ("auth.user.updated", [user, group], [{"path": "/groups", "before": [int(group["id"])]}]),
        ("auth.group.updated", [group, user], [{"path": "/user_set", "after": [int(user["id"])]}]),
        ("auth.group.updated", [group, user], [{"path": "/user_set", "before": [int(user["id"])]}]),
    ]


@each_server
def test_what_is_rolled_back_is_not_recorded(open_shop: OpenShop, name: str, key: str) -> None:
    shop = open_shop(key)
    assert shop.ask("POST", "/roll_back/kept", agent=name).status == 200
    (event,) = shop.events(name, 1)
    assert event["changes"][1] == {"path": "/name", "after": "kept"}


@each_server
def test_a_change_is_its_users_who_may_have_left_before_the_commit(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    headers = {"Cookie": shop.log_in("u_6")}
    assert shop.ask("POST", "/farewell/leavers", agent=name, headers=headers).status == 200
    events = shop.events(name, 2)
    assert {event["action"] for event in events} == {"auth.group.created", "user.logout"}
    assert {event["actor"].get("name") for event in events} == {"u_6"}


@each_server
def test_a_user_who_deletes_himself_keeps_the_id_that_the_request_began_with(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    headers = {"Cookie": shop.log_in("u_15")}
    assert shop.ask("POST", "/close_account", agent=name, headers=headers).status == 200
    events = shop.events(name, 3)
    assert {event["action"] for event in events} == {
        "auth.user.deleted",
        "payment.refunded",
        "user.logout",
    }
    (deleted,) = (event for event in events if event["action"] == "auth.user.deleted")
    user_id = deleted["targets"][0]["id"]
    assert user_id.isdigit()
    for event in events:
        assert re.fullmatch("[0-9a-f]{32}", event["actor"].pop("session"))
        assert event["actor"] == {"type": "user", "id": user_id, "name": "u_15"}


@each_server
def test_changes_outside_of_a_request_are_those_of_the_process(
    open_shop: OpenShop, running: Running, key: str
) -> None:
    open_shop(key)
    made = [e for e in running.events() if e["action"] == "auth.user.created"]
    assert made
    assert all(e["actor"] == {"type": "process", "id": "django"} for e in made)


WRONG = {
    "an unknown setting": ({"PROXY": []}, "LEDGER has ['PROXY']"),
    "an unknown model": ({"MODELS": {"auth.Usr": []}}, "doesn't have a 'Usr' model"),
    "an unknown field": ({"MODELS": {"auth.User": ["e-mail"]}}, "no field named 'e-mail'"),
    "a text for a list of fields": ({"MODELS": {"auth.User": "email"}}, "a list of fields"),
    "no recorder": ({}, "neither LEDGER["),
    "a network that is none": (
        {"RECORDER": "real", "PROXIES": ["10.0.0.1/8"]},
        "10.0.0.1/8 has host bits set",
    ),
    "a recorder's setting that is none": (
        {"RECORDER": {"url": "http://127.0.0.1:1", "spool": "x", "policy": "y", "spol": "x"}},
        "unexpected keyword argument 'spol'",
    ),
}
START = """
import json, os, sys
import django
from django.conf import settings
said = json.loads(sys.argv[1])
if said.get("RECORDER") == "real":
    said["RECORDER"] = json.loads(sys.argv[2])
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes",
                    "ledger_client.integrations.django.LedgerConfig"],
    MIDDLEWARE=["ledger_client.integrations.django.LedgerMiddleware"],
    LEDGER=said,
)
django.setup()
from django.core.wsgi import get_wsgi_application
get_wsgi_application()
"""


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_setting_stops_the_start(
    running: Running, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    recorder = {
        "url": running.url,
        "token": running.token,
        "spool": str(tmp_path / "spool"),
        "policy": str(running.policy),
    }
    arguments = [json.dumps(settings), json.dumps(recorder)]
    done = subprocess.run(
        [sys.executable, "-c", START, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]


def run_app(module: str) -> Any:
    """Run an application and decode the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.integrations.apps.{module}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_models_are_recorded_as_they_changed_whatever_their_handlers_do() -> None:
    output = run_app("places")
    made = output["events"]

    def place(what: str, **sides: Any) -> list[Any]:
        return [f"places.place.{what}", [{"path": "/name", **sides}]]

    assert made["a handler that saves again"] == [
        place("created", after="new"),
        place("updated", before="new", after="new!"),
    ]
    assert made["a handler that saves another instance of it"] == [
        place("updated", before="new!", after="same"),
        place("updated", before="same", after="same?"),
    ]
    assert made["a handler that saves before it"] == [
        place("updated", before="same?", after="first"),
        place("updated", before="first", after="second"),
    ]
    assert made["a save that failed, and another one"] == [
        place("updated", before="second", after="third")
    ]
    assert made["a child"] == [
        place("created", after="inn"),
        place("updated", before="inn", after="inn 2"),
        place("deleted", before="inn 2"),
    ]
    assert made["a member that is none"] == []
    assert made["some that are members"] == [
        ["places.place.updated", [{"path": "/friends", "before": [output["friend"]]}]]
    ]


def test_memberships_that_end_with_a_deleted_row_are_recorded() -> None:
    output = run_app("places")
    made = {
        name: [
            [action, [change for change in changes if len(changes) == 1]]
            for action, changes in events
        ]
        for name, events in output["events"].items()
    }
    ended = ["places.place.updated", [{"path": "/friends", "before": [output["place"]]}]]
    assert made["a deletion of a member"] == [
        ["places.place.deleted", [{"path": "/name", "before": "left"}]],
        ended,
    ]
    assert made["a deletion of many members"].count(ended) == 1
    assert made["a deletion of what is not recorded, at the end of what is"] == [
        ["auth.group.updated", [{"path": "/user_set", "before": [output["user"]]}]]
    ]
    assert made["a deletion of the owner"] == [
        ["auth.user.deleted", []],
        ["auth.user.updated", [{"path": "/groups", "before": [output["group"]]}]],
    ]
    assert made["a deletion that is rolled back"] == []


@pytest.fixture(scope="module")
def orders() -> Any:
    """Writes of many rows, and fields that are not shown, are recorded as configured."""
    return run_app("orders")


def test_private_and_masked_fields_are_not_shown(orders: Any) -> None:
    created, updated = orders["events"]["a customer"]
    target = ["orders.customer", "1", "customer 1"]
    assert [created["targets"], updated["targets"]] == [[target], [target]]
    masked = {"masked": "setting"}
    assert created["changes"] == [
        {"path": "/id", "after": 1},
        {"path": "/user_id", "after": 1},
        {"path": "/email", "after": ["ann@example.com", "auth.user:1"]},
        {"path": "/iban", "after": masked},
    ]
    assert updated["changes"] == [
        {
            "path": "/email",
            "before": ["ann@example.com", "auth.user:1"],
            "after": ["jo@example.com", "auth.user:1"],
        },
        {"path": "/iban", "before": masked, "after": masked},
    ]


def test_targets_have_their_name_unless_it_shows_a_hidden_value(orders: Any) -> None:
    (updated,) = orders["events"]["a name that shows a private value"]
    assert updated["targets"] == [["orders.customer", "1"]]
    (joined,) = orders["events"]["a friend"]
    assert joined["targets"] == [
        ["orders.customer", "1"],
        ["orders.customer", "2", "customer 2"],
    ]


def test_an_expression_is_neither_a_value_nor_part_of_a_name(orders: Any) -> None:
    (event,) = orders["events"]["a value that the database computes"]
    (change,) = [each for each in event["changes"] if each["path"] == "/total"]
    assert change["after"] == change["before"] + 1
    (target,) = event["targets"]
    assert target[0] == "orders.order"
    assert len(target) == 2  # Type and id.


def test_a_write_of_many_rows_is_one_event_with_their_number(orders: Any) -> None:
    events, keys = orders["events"], orders["keys"]
    (created,) = events["bulk_create"]
    assert created["action"] == "orders.order.created"
    assert created["context"] == {"rows": 40}
    expected = [["orders.order", str(key), f"order {n}"] for n, key in enumerate(keys[:32])]
    assert created["targets"] == expected
    (updated,) = events["update"]
    assert updated["action"] == "orders.order.updated"
    assert updated["context"] == {"rows": 3}
    assert updated["targets"] == expected[:3]
    assert updated["changes"] == [
        {"path": "/state", "before": "new", "after": "sent"},
        {
            "path": "/total",
            "before": {"not_shown": True},
            "after": {"expression": "CombinedExpression"},
        },
    ]
    (all_updated,) = events["an update of many"]
    assert (all_updated["context"], len(all_updated["targets"])) == ({"rows": 40}, 32)
    assert all_updated["changes"] == [
        {"path": "/state", "before": {"not_shown": True}, "after": "paid"}
    ]
    (few,) = events["bulk_update"]
    assert few["context"] == {"rows": 2}
    assert few["changes"] == [
        {"path": "/state", "before": "paid", "after": "lost"},
        {"path": "/total", "before": {"not_shown": True}, "after": {"not_shown": True}},
    ]
    (added,) = events["a reverse relation"]
    assert added["changes"] == [{"path": "/customer_id", "before": None, "after": 2}]
    assert events["an update of none"] == []
    assert events["a write that is rolled back"] == []


def test_a_write_of_many_rows_of_another_manager_is_recorded_if_asked_for(orders: Any) -> None:
    (updated,) = orders["events"]["rows of an unaudited manager"]
    masked = {"masked": "setting"}
    # Private values of many rows have many subjects, so that they are masked.
    assert updated["changes"] == [
        {"path": "/iban", "before": masked, "after": masked},
        {"path": "/email", "before": masked, "after": masked},
    ]
    assert updated["context"] == {"rows": 1}


def test_the_name_beside_a_value_tells_that_it_is_a_secret(orders: Any) -> None:
    secret = orders["events"]["secrets in a column of values"]
    assert "s3cret" not in str(secret)
    kinds = {"masked": "api-key"}
    values = [
        {side: change[side] for side in ("before", "after") if side in change}
        for event in secret
        for change in event.get("changes", [])
        if change["path"] == "/value"
    ]
    assert values == [
        {"after": kinds},
        *[{"before": kinds, "after": kinds}] * 3,
        {"before": kinds},
        {"before": {"not_shown": True}, "after": {"not_shown": True}},
        {"after": kinds},
        {"before": kinds, "after": kinds},
    ]
    created, updated = orders["events"]["a column of values"]
    assert {"path": "/value", "after": "dark"} in created["changes"]
    assert updated["changes"] == [{"path": "/value", "before": "dark", "after": "light"}]


def test_what_a_deletion_sets_in_other_rows_is_recorded(orders: Any) -> None:
    deleted, ended, emptied = orders["events"]["a deletion"]
    assert deleted["action"] == "orders.customer.deleted"
    assert ended["changes"] == [{"path": "/friends", "before": [1]}]
    assert emptied["action"] == "orders.order.updated"
    assert emptied["targets"] == [["orders.order", str(orders["keys"][3]), "order 3"]]
    assert emptied["changes"] == [{"path": "/customer_id", "before": 2, "after": None}]
    _, customer, payer = orders["events"]["a deletion with a default"]
    assert [customer["context"], payer["context"]] == [{"rows": 3}, {"rows": 40}]
    assert payer["changes"] == [{"path": "/payer_id", "before": 1, "after": None}]


def test_the_row_in_the_database_decides_what_happened(orders: Any) -> None:
    events = orders["events"]
    (created,) = events["a key that is set before the row is saved"]
    assert (created["action"], created["targets"][0][1]) == ("orders.order.created", "777")
    assert events["a save without a change"] == []


def test_only_what_was_written_is_a_change(orders: Any) -> None:
    events = orders["events"]
    (updated,) = events["a save of some fields"]
    assert updated["changes"] == [{"path": "/state", "before": "new", "after": "sent"}]
    (by_column,) = events["a save of a foreign key by its column"]
    (change,) = by_column["changes"]
    assert (change["path"], change["before"]) == ("/customer_id", None)
    (of_key,) = events["an update of a foreign key"]
    assert of_key["changes"] == [
        {"path": "/customer_id", "before": change["after"], "after": None},
        {"path": "/payer_id", "before": None, "after": change["after"]},
    ]


def test_a_deleted_row_is_read_whole_before_and_recorded_at_the_commit(orders: Any) -> None:
    events = orders["events"]
    (deleted,) = events["a deletion of a row with deferred fields, in a transaction"]
    assert (deleted["action"], deleted["targets"][0][1]) == ("orders.order.deleted", "777")
    paths = {change["path"]: change["before"] for change in deleted["changes"]}
    assert (paths["/state"], paths["/total"]) == ("sent", 1)
    (cascaded,) = events["a deletion that cascades"]
    assert cascaded["action"] == "orders.customer.deleted"
    assert cascaded["targets"][0][1].isdigit()


def test_each_row_of_a_deletion_is_recorded(orders: Any) -> None:
    events = orders["events"]["a deletion of several rows"]
    assert {event["action"] for event in events} == {"orders.order.deleted"}
    assert [event["targets"][0][1] for event in events] == [str(key) for key in orders["some"]]
    for event, total in zip(events, (501, 502, 503), strict=True):
        assert {"path": "/total", "before": total} in event["changes"]


def test_what_a_handler_of_a_deletion_writes_is_recorded(orders: Any) -> None:
    events = orders["events"]["a deletion with a handler that writes many rows"]
    assert [event["action"] for event in events] == [
        "orders.customer.deleted",
        "orders.order.updated",
        "orders.order.updated",
        "orders.order.created",
    ]
    _, emptied, cancelled, _ = events
    assert [change["path"] for change in emptied["changes"]] == ["/payer_id"]
    assert cancelled["changes"] == [{"path": "/state", "before": "new", "after": "cancelled"}]


def test_a_masked_key_is_the_id_of_a_target_as_a_keyed_digest(orders: Any) -> None:
    events = orders["events"]["keys that are secrets"]
    assert "s3cret" not in str(events)
    targets = [
        [target for target in event["targets"] if target[0] == "orders.token"] for event in events
    ]
    made, other, *later = [found[0] for found in targets if found]
    assert len(later) == 5
    assert [each == made for each in (other, *later)] == [False, *[True] * 5]
    digest = keyed_rules("key of the tests").digest("s3cret")
    assert made == ["orders.token", f"masked.setting.{digest}"]
    assert default_rules().mask_id(made[1]) == made[1]


def test_a_save_that_failed_is_not_taken_for_a_later_one(orders: Any) -> None:
    name = "a failed save, a change by SQL, and a save of what is not recorded"
    assert orders["events"][name] == []


def test_a_row_without_a_name_is_recorded_and_a_broken_transaction_is_left_alone(
    orders: Any,
) -> None:
    (created,) = orders["events"]["a row that has no name"]
    assert created["targets"] == [["orders.setting", created["targets"][0][1]]]
    assert orders["events"]["a broken transaction"] == []


def test_a_check_lists_the_models_whose_writes_of_many_rows_go_unseen(orders: Any) -> None:
    message = "(ledger.W005) writes of many rows by objects, _base_manager are not recorded"
    for model, warning in zip(("Customer", "Invoice"), orders["unseen"], strict=True):
        assert warning.startswith(f"orders.{model}: {message}")
        assert "AuditedManager" in warning


CHECKED: dict[str, tuple[dict[str, Any], str]] = {
    "E001": ({"RECORDER": None}, 'there is no recorder: LEDGER["RECORDER"] is missing'),
    "E002": ({"PROXY": []}, "LEDGER has ['PROXY']. Did you mean ['PROXIES']?"),
    "E003": ({"RECORDER": {"spol": "spool"}}, "Did you mean ['spool']?"),
    "E004": ({"RECORDER": {"policy": "/nowhere/policy"}}, "/nowhere/policy can't be read: No such"),
    "E005": ({"RECORDER": {"spool": "/dev/null/spool"}}, "/dev/null/spool can't be written"),
    "E006": ({"MODELS": {"auth.User": {"privat": ["email"]}}}, "has ['privat']"),
    "E007": ({"PROXIES": ["10.0.0.1/8"]}, "10.0.0.1/8 has host bits set"),
    "W001": ({}, 'Put "ledger_client.integrations.django.LedgerMiddleware" first.'),
}
CHECK = """
import json, sys
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes",
                    "ledger_client.integrations.django.LedgerConfig"],
    MIDDLEWARE=["ledger_client.integrations.django.LedgerMiddleware"],
)
cases = json.loads(sys.argv[1])
import django
django.setup()
from django.core.checks import run_checks
from django.test import override_settings
found = {}
for case, setting in cases.items():
    middleware = [] if case == "W001" else settings.MIDDLEWARE
    with override_settings(LEDGER=setting, MIDDLEWARE=middleware):
        found[case] = [str(each) for each in run_checks() if each.id.startswith("ledger.")]
print(json.dumps(found))
"""


def test_the_system_checks_name_each_mistake_in_the_settings(
    running: Running, tmp_path: Path
) -> None:
    good = {"url": running.url, "policy": str(running.policy), "spool": str(tmp_path / "spool")}
    cases: dict[str, Any] = {"": {"RECORDER": good}}
    for case, (setting, _) in CHECKED.items():
        recorder = setting.get("RECORDER", {})
        recorder = None if recorder is None else {**good, **recorder}
        cases[case] = {**setting, "RECORDER": recorder}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("") == []
    for case, (_, message) in CHECKED.items():
        (one,) = found[case]
        assert f"(ledger.{case})" in one
        assert message in one


def test_the_middleware_without_the_application_is_a_log_line(
    running: Running, tmp_path: Path
) -> None:
    setting = {"url": running.url, "policy": str(running.policy), "spool": str(tmp_path / "spool")}
    start = START.replace('"ledger_client.integrations.django.LedgerConfig"', "")
    done = subprocess.run(
        [sys.executable, "-c", start, json.dumps({"RECORDER": "real"}), json.dumps(setting)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ledger_app_not_installed" in done.stderr


NOTHING = """
import json, sys
import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db.models import signals
from django.http import HttpResponse
from django.test import RequestFactory
from django.urls import path

from ledger_client import extend_audit_context

def view(request):
    extend_audit_context(reason="a login")
    return HttpResponse("served")

urlpatterns = [path("", view)]
settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes",
                    "ledger_client.integrations.django.LedgerConfig"],
    MIDDLEWARE=["ledger_client.integrations.django.LedgerMiddleware"],
    LEDGER={"ENABLED": False, "MODELS": {"auth.User": []}, "RECORDER": {"policy": "/nowhere"}},
)
django.setup()

from django.contrib.auth import signals as auth
from django.core import checks
from django.core.management import call_command

def ours(signal):
    found = [each[1]() if hasattr(each[1], "__call__") and not hasattr(each[1], "__code__")
             else each[1] for each in signal.receivers]
    return [each.__name__ for each in found if each.__module__.startswith("ledger_client")]

answer = WSGIHandler().get_response(RequestFactory().get("/"))
listened = [signals.pre_save, signals.post_save, signals.pre_delete, signals.post_delete,
            signals.m2m_changed, auth.user_logged_in, auth.user_logged_out,
            auth.user_login_failed]
sys.stdout.write(json.dumps({
    "answer": answer.content.decode(),
    "receivers": [name for signal in listened for name in ours(signal)],
    "checks": [each.id for each in checks.run_checks(tags=["ledger"])],
}))
"""


@pytest.mark.parametrize("is_enabled", [False, True])
def test_what_is_not_enabled_listens_to_no_signal_and_serves(
    tmp_path: Path, *, is_enabled: bool
) -> None:
    program = NOTHING
    if is_enabled:  # The same program, to show that it would find the receivers.
        program = NOTHING.replace('"ENABLED": False, ', "").replace(
            'MIDDLEWARE=["ledger_client.integrations.django.LedgerMiddleware"]', "MIDDLEWARE=[]"
        )
        program = program.replace('    extend_audit_context(reason="a login")\n', "")
    (tmp_path / "nothing.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "nothing.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["answer"] == "served"
    assert bool(output["receivers"]) == is_enabled
    assert ("ledger.E004" in output["checks"] or "ledger.E003" in output["checks"]) == is_enabled
