"""The shops' own people, in their own tenants: orders, refunds, keys, settings."""

from collections.abc import Iterator
from functools import partial

from ledger.demo.data.company import SHOPS, Shop, browser
from ledger.demo.data.event_maker import (
    MINUTE_US,
    Caller,
    Day,
    Details,
    EventMaker,
    TimedEvent,
    thing,
)

# Action, kind and id prefix of the target, and what changes. Five in eleven tasks are a look.
TASKS: tuple[tuple[str, str, str, Details], ...] = (
    *[("order.viewed", "order", "ord", {})] * 5,
    ("refund.created", "refund", "rf", {"/refunded_cents": (0, 2400)}),
    ("order.cancelled", "order", "ord", {"/status": ("paid", "cancelled")}),
    ("product.price_changed", "product", "prd", {"/price_cents": (1900, 2100)}),
    ("api_key.rotated", "api_key", "key", {"/generation": (3, 4)}),
    ("webhook.changed", "webhook", "whk", {"/active": (False, True)}),
    ("member.invited", "invitation", "inv", {}),
)


def shops(maker: EventMaker) -> Iterator[TimedEvent]:
    """Monday to Saturday; each person comes on four days in five."""
    for shop in SHOPS:
        for person in shop.people:
            for day in Day:
                if day != Day.SUNDAY and maker.chance(0.8):
                    yield from visit(maker, shop, person, day)


def visit(maker: EventMaker, shop: Shop, person: str, day: Day) -> Iterator[TimedEvent]:
    at, me = (
        maker.at(day, shop.opens) + maker.rng.randrange(8 * 60) * MINUTE_US,
        thing("user", person),
    )
    caller = Caller(
        me | {"session": maker.session(person, day)},
        {"ip": shop.ip, "user_agent": browser(int(person[-1])), "service": "merchant-web"},
    )
    gate, event = caller.via("gate"), partial(maker.event, tenant=shop.tenant, trace=maker.trace())
    if maker.chance(0.1):
        wrong = {"outcome": "failure", "reason": "wrong password"}
        yield event(at, gate.without_session(), "login.failed", me, **wrong)
        at = maker.later(at, seconds=60)
    yield event(at, gate, "login.succeeded", me, mfa="verified")
    for _ in range(maker.rng.randrange(2, 6)):
        at = maker.later(at, seconds=500)
        action, kind, prefix, changes = maker.rng.choice(TASKS)
        yield event(
            at, caller, action, thing(kind, maker.number(prefix, 12_000, 19_000)), **changes
        )
