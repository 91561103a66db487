"""The shops' own people, in their own tenants: orders, refunds, keys, settings."""

from collections.abc import Iterator
from functools import partial

from ledger.demo.data.company import BROWSERS, SHOPS, Shop
from ledger.demo.data.telling import MINUTE_US, Day, Moment, Presence, Teller, change, thing


def shops(teller: Teller) -> Iterator[Moment]:
    """Monday to Saturday, most of them."""
    for shop in SHOPS:
        for person in shop.people:
            for day in Day:
                if day != Day.SUNDAY and teller.chance(0.8):
                    yield from visit(teller, shop, person, day)


def visit(teller: Teller, shop: Shop, person: str, day: Day) -> Iterator[Moment]:
    at = teller.at(day, shop.opens) + teller.rng.randrange(8 * 60) * MINUTE_US
    who = Presence(
        thing("user", person) | {"session": teller.session(person, day)},
        {
            "ip": shop.ip,
            "user_agent": BROWSERS[int(person[-1]) % len(BROWSERS)],
            "service": "merchant-web",
        },
    )
    told = partial(teller.tell, tenant=shop.tenant, trace=teller.trace())
    if teller.chance(0.1):
        yield told(
            at,
            who.through("gate").signed_out(),
            "login.failed",
            thing("user", person),
            outcome="failure",
            reason="wrong password",
        )
        at = teller.later(at, seconds=60)
    yield told(at, who.through("gate"), "login.succeeded", thing("user", person), mfa="verified")
    for _ in range(teller.rng.randrange(2, 6)):
        at = teller.later(at, seconds=500)
        action, kind, prefix, changes = teller.rng.choice(ERRANDS)
        yield told(
            at, who, action, thing(kind, teller.number(prefix, 12_000, 19_000)), changes=changes
        )


ERRANDS = (
    *[("order.viewed", "order", "ord", ())] * 5,
    ("refund.created", "refund", "rf", (change("/refunded_cents", 0, 2400),)),
    ("order.cancelled", "order", "ord", (change("/status", "paid", "cancelled"),)),
    ("product.price_changed", "product", "prd", (change("/price_cents", 1900, 2100),)),
    ("api_key.rotated", "api_key", "key", (change("/generation", 3, 4),)),
    ("webhook.changed", "webhook", "whk", (change("/active", before=False, after=True),)),
    ("member.invited", "invitation", "inv", ()),
)
