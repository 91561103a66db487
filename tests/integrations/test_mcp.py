"""Calls of an agent's tools, over the real SDK of the Model Context Protocol."""

import functools
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Annotated, Any, cast

import anyio
import pytest
from mcp import MCPError
from mcp.client.client import Client
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.context import CallNext, HandlerResult
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, Implementation
from pydantic import AliasChoices, AliasPath, Field
from starlette.requests import Request

from ledger_client import audited
from ledger_client.integrations.mcp import (
    AuditTools,
    ToolContext,
    _arguments,
    audited_tool,
    calling_agent,
    token_subject,
)
from ledger_client.recording.jsonable import TOO_DEEP, VALUES_MAX
from ledger_client.testing import MemoryRecorder

pytestmark = pytest.mark.anyio
each_mode = pytest.mark.parametrize("mode", ["legacy", "auto"])


def person(_: ToolContext) -> tuple[str, str]:
    return "user", "ann"


@pytest.fixture
def recorder() -> MemoryRecorder:
    return MemoryRecorder(service="shop")


@pytest.fixture
def shop(recorder: MemoryRecorder) -> MCPServer:
    server = MCPServer("shop", middleware=[AuditTools(person=person, recorder=recorder)])

    @server.tool()
    @audited_tool(target=lambda order: ("order", order), masked=["card"])
    def cancel(order: str, card: str = "", password: str = "") -> str:
        if order == "o_2":
            raise PermissionError(order)
        refund(order)
        return f"{order} is cancelled"

    @server.tool()
    @audited_tool(target=("stock", "all"))
    async def count(at_least: int) -> int:
        if at_least > 100:
            raise ValueError(at_least)
        return at_least

    @server.tool()
    def ping() -> CallToolResult:
        return CallToolResult(content=[], is_error=True)

    @server.tool()
    async def wait() -> None:
        await anyio.sleep_forever()

    @audited("order.refunded", target=lambda order: ("order", order), recorder=recorder)
    def refund(order: str) -> None:
        """What a tool itself records."""

    return server


def open_client(server: MCPServer, mode: str) -> Client:
    return Client(server, mode=mode, client_info=Implementation(name="assistant", version="1.2"))


@each_mode
async def test_a_call_is_recorded_with_agent_person_tool_target_and_masked_arguments(
    shop: MCPServer, recorder: MemoryRecorder, mode: str
) -> None:
    arguments = {"order": "o_1", "card": "4000 1234", "password": "hunter2"}
    async with open_client(shop, mode) as client:
        await client.list_tools()
        assert not (await client.call_tool("cancel", arguments)).is_error
    refunded, called = recorder.events
    actor = {
        "type": "agent",
        "id": "assistant",
        "on_behalf_of": {"type": "user", "id": "ann"},
    }
    # What the tool itself records has the same actor.
    assert (refunded["action"], refunded["actor"]) == ("order.refunded", actor)
    assert (called["action"], called["actor"]) == ("tool.called", actor)
    assert called["outcome"] == "success"
    assert called["source"] == {"service": "shop"}
    assert called["targets"] == [{"type": "tool", "id": "cancel"}, {"type": "order", "id": "o_1"}]
    assert called["context"] == {
        "arguments": {
            "order": "o_1",
            "card": {"masked": "setting"},
            "password": {"masked": "password"},
        },
        "client": {"name": "assistant", "version": "1.2"},
    }


@each_mode
async def test_a_call_that_ends_otherwise_is_no_success(
    shop: MCPServer, recorder: MemoryRecorder, mode: str
) -> None:
    async with open_client(shop, mode) as client:
        for tool, arguments in (
            ("cancel", {"order": "o_2"}),
            ("count", {"at_least": 1}),
            ("count", {"at_least": 101}),
            ("count", {"at_least": "many"}),
            ("ping", {}),
            ("no such tool", {}),
        ):
            try:
                await client.call_tool(tool, arguments)
            except MCPError:
                assert tool == "no such tool"
    found = [
        (event["targets"][0]["id"], event["outcome"], event["context"].get("error"))
        for event in recorder.events
    ]
    assert [(tool, outcome) for tool, outcome, _ in found] == [
        ("cancel", "denied"),
        ("count", "success"),
        ("count", "failure"),
        ("count", "failure"),
        ("ping", "failure"),
        ("no such tool", "failure"),
    ]
    assert [error for *_, error in found[:4]] == ["PermissionError", None, "ValueError", None]
    assert recorder.events[1]["targets"][1] == {"type": "stock", "id": "all"}


async def test_what_a_tool_raised_in_another_that_went_on_is_not_the_outcome(
    recorder: MemoryRecorder,
) -> None:
    server = MCPServer("shop", middleware=[AuditTools(person=person, recorder=recorder)])

    @server.tool()
    @audited_tool()
    def read(order: str) -> str:
        raise PermissionError(order)

    @server.tool()
    @audited_tool()
    async def look(order: str) -> str:
        with suppress(PermissionError):
            read(order)
        return "nothing to see"

    @server.tool()
    @audited_tool()
    async def look_on(order: str) -> str:
        with suppress(PermissionError):
            read(order)
        raise ValueError(order)

    async with open_client(server, "auto") as client:
        for tool in ("read", "look", "look_on"):
            await client.call_tool(tool, {"order": "o_1"})
    assert [(e["outcome"], e["context"].get("error")) for e in recorder.events] == [
        ("denied", "PermissionError"),
        ("success", None),
        ("failure", "ValueError"),
    ]


@each_mode
async def test_what_a_tool_hides_is_hidden_where_its_function_is_not_called(
    shop: MCPServer, recorder: MemoryRecorder, mode: str
) -> None:
    async with open_client(shop, mode) as client:
        for tool, arguments in (
            ("cancel", {"card": "4000 1234"}),
            ("cancel", {"order": ["o_1"], "card": "4000 1234"}),
            ("cancel", {"order": "o_1", "card": ["4000 1234"]}),
            ("cancell", {"order": "o_1", "card": "4000 1234"}),
        ):
            with suppress(MCPError):
                assert (await client.call_tool(tool, arguments)).is_error
    found = [event["context"]["arguments"] for event in recorder.events]
    assert [each.pop("card") for each in found] == [{"masked": "setting"}] * 4
    # What no tool hides is shown.
    assert found == [{}, {"order": ["o_1"]}, {"order": "o_1"}, {"order": "o_1"}]


async def test_a_tool_that_hides_nothing_shows_what_others_hide(recorder: MemoryRecorder) -> None:
    server = MCPServer("shop", middleware=[AuditTools(person=person, recorder=recorder)])

    @server.tool()
    @audited_tool(masked=["deck"])
    def shuffle(deck: str) -> None:
        """Hide an argument."""

    @server.tool()
    @audited_tool()
    def draw(deck: str) -> None:
        """Hide nothing."""

    async with open_client(server, "auto") as client:
        await client.call_tool("draw", {"deck": "blue"})
    (event,) = recorder.events
    assert event["context"]["arguments"] == {"deck": "blue"}


async def test_what_a_tool_hides_is_hidden_under_its_aliases_too(
    recorder: MemoryRecorder,
) -> None:
    server = MCPServer("shop", middleware=[AuditTools(person=person, recorder=recorder)])

    @server.tool()
    @audited_tool(masked=["pan", "badge", "code", "owner"])
    def pay(
        pan: Annotated[str, Field(alias="panNumber")],
        badge: Annotated[str, Field(validation_alias=AliasChoices("badgeNumber", "badgeNo"))],
        owner: Annotated[str, Field(validation_alias=AliasPath("holder", "name"))] = "",
        code: str = Field(default="", validation_alias="checkCode"),
        order: str = Field(default="", validation_alias="orderId"),
    ) -> str:
        return "paid"

    names = ("panNumber", "badgeNumber", "badgeNo", "holder", "checkCode")
    hidden = dict.fromkeys(names, "4000 1234")
    async with open_client(server, "auto") as client:
        for sent in (hidden, {**hidden, "orderId": "o_1"}, {"panNumber": "4000 1234"}):
            await client.call_tool("pay", sent)
    for event, shown in zip(recorder.events, ({}, {"orderId": "o_1"}, {}), strict=True):
        arguments = event["context"]["arguments"]
        masked = {name for name, each in arguments.items() if each == {"masked": "setting"}}
        assert masked == arguments.keys() & hidden.keys()
        assert {name: arguments[name] for name in arguments.keys() - masked} == shown


async def test_what_a_tool_hides_is_hidden_where_another_answers_for_its_function(
    recorder: MemoryRecorder,
) -> None:
    """A successful result doesn't tell that the function of the tool was called."""

    async def answer_known(ctx: ToolContext, call_next: CallNext) -> HandlerResult:
        if ctx.method == "tools/call" and (ctx.params or {})["name"] == "pay_known":
            return CallToolResult(content=[], structured_content={"result": "paid"})
        return await call_next(ctx)

    audit = AuditTools(person=person, recorder=recorder)
    server = MCPServer("shop", middleware=[audit, answer_known])

    def refused(function: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(function)
        def answer(**_: Any) -> str:
            return "not permitted"

        return answer

    @server.tool()
    @refused
    @audited_tool(masked=["iban"])
    def pay(iban: str, amount: int) -> str:
        return "paid"

    @server.tool()
    @audited_tool(masked=["iban"])
    def pay_known(iban: str, amount: int) -> str:
        return "paid"

    async with open_client(server, "auto") as client:
        for tool in ("pay", "pay_known"):
            assert not (await client.call_tool(tool, {"iban": "DE02", "amount": 3})).is_error
    found = [(event["outcome"], event["context"]["arguments"]) for event in recorder.events]
    assert found == [("success", {"iban": {"masked": "setting"}, "amount": 3})] * 2


async def test_an_agent_that_names_nothing_is_recorded_too(
    shop: MCPServer, recorder: MemoryRecorder
) -> None:
    async with Client(
        shop, mode="legacy", client_info=Implementation(name="", version="")
    ) as client:
        await client.call_tool("cancel", {"order": ""})
    called = recorder.events.of("tool.called")
    assert [event["actor"]["id"] for event in called] == ["unknown"]
    assert called[0]["targets"] == [
        {"type": "tool", "id": "cancel"},
        {"type": "order", "id": "unknown"},
    ]
    assert called[0]["context"]["altered"] == [
        "actor.id: unknown, it is empty",
        "targets[1].id: unknown, it is empty",
    ]
    assert not recorder.events.refused


async def test_a_call_that_is_cancelled_has_an_unknown_outcome(
    shop: MCPServer, recorder: MemoryRecorder
) -> None:
    async with open_client(shop, "legacy") as client:
        with anyio.move_on_after(0.01):
            await client.call_tool("wait", {})
        with anyio.fail_after(30):
            while not len(recorder.events):
                await client.list_tools()
    (event,) = recorder.events
    assert (event["targets"], event["outcome"]) == ([{"type": "tool", "id": "wait"}], "unknown")


async def test_without_a_recorder_the_tool_is_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: ToolContext) -> None:
        raise LookupError

    server = MCPServer("shop", middleware=[AuditTools(agent=fail, person=fail)])

    @server.tool()
    @audited_tool(target=lambda missing: ("order", missing))
    def ping() -> str:
        return "pong"

    async with Client(server) as client:
        result = await client.call_tool("ping", {})
    assert result.structured_content == {"result": "pong"}
    assert "event_lost action=tool.called" in caplog.text
    assert "actor_not_found error=LookupError" in caplog.text


def test_a_request_without_a_token_is_not_of_the_one_who_began_its_session() -> None:
    owner = AuthenticatedUser(AccessToken(token="t", client_id="agent", scopes=[], subject="ann"))
    later = SimpleNamespace(
        request=Request({"type": "http"}), session=SimpleNamespace(client_params=None)
    )
    own = SimpleNamespace(
        request=Request({"type": "http", "user": owner}),
        session=SimpleNamespace(client_params=None),
    )
    began = auth_context_var.set(owner)
    try:
        assert token_subject(cast("ToolContext", later)) is None
        assert calling_agent(cast("ToolContext", later)) is None
        assert token_subject(cast("ToolContext", own)) == ("user", "ann")
    finally:
        auth_context_var.reset(began)


def test_arguments_with_more_values_than_a_leaf_are_left_out() -> None:
    """A client of the tool chose them: they are not read to their end."""
    assert _arguments({"a": [1, 2]}, ()) == {"a": [1, 2]}
    assert _arguments({"a": [1] * (VALUES_MAX + 1)}, ()) == TOO_DEEP
    assert _arguments([1] * (VALUES_MAX + 1), ()) == TOO_DEEP
