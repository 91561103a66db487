"""Each framework records actor, action, source and request, over real sockets."""

import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from flask_babel.speaklater import LazyString

from ledger_client import Recorder, diff
from ledger_client.integrations.request_info import ANONYMOUS, UNKNOWN, actor_of
from ledger_client.runtime.trace_context import parse_trace_id
from tests.integrations.conftest import FRAMEWORKS, PROXY, Shop, serving
from tests.recording.conftest import OpenRecorder, Running

OpenShop = Callable[[str], Shop]
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

each_framework = pytest.mark.parametrize("key", FRAMEWORKS)
each_view = pytest.mark.parametrize(
    ("key", "root"), [(key, root) for key, each in FRAMEWORKS.items() for root in each.roots]
)
each_stream = pytest.mark.parametrize(
    ("key", "root"), [(key, root) for key, each in FRAMEWORKS.items() for root in each.streams]
)


@each_view
def test_an_event_says_who_did_what_from_where_in_which_request(
    open_shop: OpenShop, name: str, key: str, root: str
) -> None:
    shop = open_shop(key)
    headers = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
    answer = shop.ask("POST", f"{root}/refund/p_1", agent=name, user="u_7", headers=headers)
    assert answer.status == 200
    (event,) = shop.events(name, 1)
    assert event["action"] == "payment.refunded"
    assert event["outcome"] == "success"
    assert event["targets"] == [{"type": "payment", "id": "p_1"}]
    assert actor_name(event) == "u_7"
    assert event["actor"]["type"] == "user"
    port = event["source"].pop("port", None)
    assert (port is not None and port > 0) == shop.framework.tells_port
    assert event["source"] == {"ip": "127.0.0.1", "user_agent": name, "service": "shop"}
    assert event["context"]["trace_id"] == TRACE_ID
    assert uuid.UUID(event["context"]["request_id"])


@each_view
def test_who_has_not_logged_in_is_anonymous(
    open_shop: OpenShop, name: str, key: str, root: str
) -> None:
    shop = open_shop(key)
    assert shop.ask("POST", f"{root}/refund/p_1", agent=name).status == 200
    (event,) = shop.events(name, 1)
    assert event["actor"] == ANONYMOUS


@each_framework
def test_behind_a_proxy_it_says_where_the_client_is(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    headers = {"X-Forwarded-For": "6.6.6.6, [2001:DB8::17]:4711", "X-Request-ID": "r-1"}
    path = f"{shop.framework.roots[-1]}/refund/p_1"
    shop.ask("POST", path, agent=name, come_from=PROXY, headers=headers)
    (event,) = shop.events(name, 1)
    assert event["source"]["ip"] == "2001:db8::17"
    assert event["source"]["port"] == 4711
    assert event["context"]["request_id"] == "r-1"


@each_framework
def test_a_stranger_chooses_neither_his_address_nor_his_request_id(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    headers = {
        "X-Forwarded-For": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "X-Real-IP": "6.6.6.6",
        "X-Request-ID": "r-1",
    }
    path = f"{shop.framework.roots[-1]}/refund/p_1"
    shop.ask("POST", path, agent=name, headers=headers)
    (event,) = shop.events(name, 1)
    assert event["source"]["ip"] == "127.0.0.1"
    assert uuid.UUID(event["context"]["request_id"])


@each_framework
def test_a_proxy_that_names_nobody_is_not_taken_for_the_client(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    path = f"{shop.framework.roots[-1]}/refund/p_1"
    headers = {"X-Forwarded-For": "6.6.6.6, unknown"}
    shop.ask("POST", path, agent=name, come_from=PROXY, headers=headers)
    (event,) = shop.events(name, 1)
    assert "ip" not in event["source"]
    assert event["context"]["hidden_by"] == PROXY


@each_view
def test_the_frameworks_forbidden_is_denied_and_an_exception_a_failure(
    open_shop: OpenShop, name: str, key: str, root: str
) -> None:
    shop = open_shop(key)
    for error, status in (("forbidden", 403), ("broken", 500)):
        answer = shop.ask("POST", f"{root}/refund/p_1?error={error}", agent=name, user="u_1")
        assert answer.status == status
    events = shop.events(name, 2)
    assert [event["outcome"] for event in events] == ["denied", "failure"]
    assert [actor_name(event) for event in events] == ["u_1", "u_1"]
    assert events[1]["context"]["error"] == "RuntimeError"


@each_view
def test_concurrent_requests_are_never_mixed(
    open_shop: OpenShop, name: str, key: str, root: str
) -> None:
    shop = open_shop(key)
    users = [f"u_{number}" for number in range(4)]
    for user in users:
        shop._credentials(user)

    def ask(number: int) -> int:
        return shop.ask(
            "POST",
            f"{root}/move/p_{number}",
            agent=name,
            user=users[number % len(users)],
            headers={"X-Request-ID": f"r-{number}", "X-Forwarded-For": f"203.0.113.{number}"},
            come_from=PROXY,
        ).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(40))) == {200}
    events = shop.events(name, 80)
    for number in range(40):
        left, arrived = (e for e in events if e["targets"][0]["id"] == f"p_{number}")
        assert (left["action"], arrived["action"]) == ("payment.left", "payment.arrived")
        for event in (left, arrived):
            assert actor_name(event) == users[number % len(users)]
            assert event["source"]["ip"] == f"203.0.113.{number}"
            assert event["context"]["request_id"] == f"r-{number}"


@each_stream
def test_what_is_recorded_while_a_body_is_streamed_belongs_to_the_request(
    open_shop: OpenShop, name: str, key: str, root: str
) -> None:
    shop = open_shop(key)
    answer = shop.ask("GET", f"{root}/report", agent=name, user="u_3")
    assert answer.body == b"0\n1\n2\n"  # type: ignore[attr-defined] # `ask` has put it there
    (event,) = shop.events(name, 1)
    assert event["action"] == "report.sent"
    assert actor_name(event) == "u_3"


@pytest.mark.parametrize("key", ["flask", "django wsgi"])
def test_when_the_client_leaves_a_stream_it_is_known_who_left(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    shop.ask("GET", "/feed", agent=name, user="u_3", bytes_max=1)
    (event,) = shop.events(name, 1)
    assert (event["action"], event["outcome"]) == ("feed.followed", "unknown")
    assert actor_name(event) == "u_3"


@each_framework
def test_a_user_agent_that_is_no_text_is_no_reason_not_to_record(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    path = f"{shop.framework.roots[-1]}/refund/p_1"
    shop.ask("POST", path, agent=f"{name}\xff")
    shown = "\ufffd" if key == "aiohttp" else "\xff"
    (event,) = shop.events(f"{name}{shown}", 1)
    assert event["outcome"] == "success"


@each_framework
def test_a_user_agent_of_any_length_is_no_reason_not_to_record(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    agent = f"{name} {'x' * 4000}"
    path = f"{shop.framework.roots[-1]}/refund/p_1"
    assert shop.ask("POST", path, agent=agent).status == 200
    (event,) = shop.events(shortened(agent), 1)
    assert event["outcome"] == "success"


@each_framework
def test_the_application_goes_on_while_the_ledger_is_down(
    running: Running, name: str, key: str, tmp_path: Path
) -> None:
    framework = FRAMEWORKS[key]
    with serving(framework, running, tmp_path, url="http://127.0.0.1:1") as shop:
        for number in range(3):
            path = f"{framework.roots[-1]}/refund/p_{number}"
            assert shop.ask("POST", path, agent=name, user="u_1").status == 200
    with Recorder(
        running.url, running.token, spool=tmp_path / "spool", policy=running.policy, linger_s=0.01
    ):
        events = Shop(framework, 0, running).events(name, 3)
    assert [event["targets"][0]["id"] for event in events] == ["p_0", "p_1", "p_2"]


@pytest.mark.parametrize(
    ("values", "trace_id"),
    [
        ([f"00-{TRACE_ID}-b7ad6b7169203331-01"], TRACE_ID),
        ([f" 00-{TRACE_ID}-b7ad6b7169203331-00 "], TRACE_ID),
        ([f"01-{TRACE_ID}-b7ad6b7169203331-01-later"], TRACE_ID),
        ([f"cc-{TRACE_ID}-b7ad6b7169203331-01"], TRACE_ID),
        ([], None),
        ([""], None),
        ([f"00-{TRACE_ID}-b7ad6b7169203331-01-later"], None),
        ([f"01-{TRACE_ID}-b7ad6b7169203331-01.later"], None),
        ([f"ff-{TRACE_ID}-b7ad6b7169203331-01"], None),
        ([f"00-{'0' * 32}-b7ad6b7169203331-01"], None),
        ([f"00-{TRACE_ID}-{'0' * 16}-01"], None),
        ([f"00-{TRACE_ID.upper()}-b7ad6b7169203331-01"], None),
        ([f"00-{TRACE_ID[1:]}-b7ad6b7169203331-01"], None),
        ([f"00-{TRACE_ID}-b7ad6b7169203331-01"] * 2, None),
    ],
)
def test_a_trace_id_is_read_from_a_traceparent_alone(
    values: list[str], trace_id: str | None
) -> None:
    assert parse_trace_id(values) == trace_id


def actor_name(event: dict[str, Any]) -> str:
    """The user's name, because ids of Django are numbers."""
    return str(event["actor"].get("name") or event["actor"]["id"])


def shortened(agent: str) -> str:
    """A text as the recorder cuts it."""
    return f"{agent[:1023]}…"


def test_a_framework_is_imported_by_its_own_module_alone() -> None:
    modules = ("django", "flask", "starlette", "fastapi")
    shared = (
        "import ledger_client.integrations.request_info, ledger_client.recording.decorator, sys"
    )
    check = f"{shared}; print([name for name in {modules} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_actor_that_can_not_be_found_out_is_unknown_and_no_error() -> None:
    def fail() -> None:
        raise LookupError

    assert actor_of(fail)() == UNKNOWN
    assert actor_of(lambda: None)() == ANONYMOUS
    assert actor_of(lambda: "u_1")() == "u_1"


def test_a_lazy_translation_is_its_text(
    open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    recorder = open_recorder()
    texts = (lazystr("moved"), LazyString(lambda: "moved"), mark_safe("moved"))
    for number, text in enumerate(texts):
        recorder.record(
            "order.moved",
            target=("order", number, text),
            reason=text,
            context={"why": text},
            changes=diff({"state": "new"}, {"state": text}),
        )
        assert diff({"state": "moved"}, {"state": text}) == []
    assert recorder.flush(30)
    events = running.recorded(name)
    assert len(events) == len(texts)
    for event in events:
        assert event["targets"][0]["name"] == event["reason"] == "moved"
        assert event["context"] == {"why": "moved"}
        assert event["changes"] == [{"path": "/state", "before": "new", "after": "moved"}]
