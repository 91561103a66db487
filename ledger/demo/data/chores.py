"""What each team does all day: a chore is a function, and a table says who does it how often."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ledger.demo.data.company import COMPANY, DEPLOYER, SHOPS, STAFF, Person, Shop
from ledger.demo.data.facts import INTRUDER
from ledger.demo.data.telling import Moment, Presence, Teller, change, thing


@dataclass(frozen=True, slots=True)
class Shift:
    """One person's day at work, in one session."""

    teller: Teller
    person: Person
    who: Presence

    def shop(self) -> Shop:
        return self.teller.rng.choice(SHOPS)

    def ticket(self, desk: str) -> str:
        return f"ticket {desk}-{self.teller.rng.randrange(2100, 2400)}"

    def pick(self, *choices: str) -> str:
        return self.teller.rng.choice(choices)

    def tell(self, at: int, action: str, *targets: dict[str, str], **rest: Any) -> Moment:
        return self.teller.tell(at, self.who, action, *targets, **rest)


Chore = Callable[[Shift, int], Iterator[Moment]]


def look_at(shift: Shift, at: int, *, action: str, kind: str, prefix: str) -> Iterator[Moment]:
    """Open one numbered thing of a shop."""
    yield shift.tell(
        at, action, thing(kind, shift.teller.number(prefix, 4000, 4900)), tenant=shift.shop().tenant
    )


def help_a_customer(shift: Shift, at: int) -> Iterator[Moment]:
    """Find the customer, read the record, and sometimes mend it."""
    teller, shop, trace = shift.teller, shift.shop(), shift.teller.trace()
    customer = thing("customer", teller.number("cus", 4000, 4900))
    reason = shift.ticket("SUP")
    yield shift.tell(
        at,
        "customer.searched",
        shop.target(),
        reason=reason,
        tenant=shop.tenant,
        trace=trace,
        results=teller.rng.randrange(1, 9),
    )
    at = teller.later(at, seconds=90)
    yield shift.tell(
        at, "customer.viewed", customer, reason=reason, tenant=shop.tenant, trace=trace
    )
    if teller.chance(0.4):
        yield shift.tell(
            teller.later(at, seconds=400),
            "customer.updated",
            customer,
            reason=reason,
            tenant=shop.tenant,
            trace=trace,
            changes=[change("/language", "en", shift.pick("de", "fr", "pt"))],
        )


def give_back(shift: Shift, at: int) -> Iterator[Moment]:
    """Refund an order to the card that paid for it."""
    shop, cents = shift.shop(), shift.teller.rng.randrange(900, 18_000, 50)
    yield shift.tell(
        at,
        "refund.created",
        thing("refund", shift.teller.number("rf", 61_000, 69_000)),
        thing("order", shift.teller.number("ord", 12_000, 19_000)),
        reason=f"{shift.ticket('SUP')}: {shift.pick(*REFUND_REASONS)}",
        changes=[change("/refunded_cents", 0, cents)],
        tenant=shop.tenant,
        currency="EUR",
        destination="original_card",
    )


REFUND_REASONS = (
    "paid twice",
    "arrived broken",
    "never arrived",
    "wrong size 👟",
    "Kundin hat es sich anders überlegt",
    "remboursé à la demande de la boutique",
    "お客様のご要望により返金",
    "الطلب مكرر",
)


def sit_in_for_a_shop(shift: Shift, at: int) -> Iterator[Moment]:
    """Impersonate somebody of a shop, who asked for it, to see what they see."""
    teller, shop, trace = shift.teller, shift.shop(), shift.teller.trace()
    user = thing("user", teller.rng.choice(shop.people))
    reason, inside = shift.ticket("SUP"), shift.who.on_behalf_of(user).through("merchant-web")
    told = partial(teller.tell, tenant=shop.tenant, reason=reason, trace=trace)
    yield told(at, shift.who, "support.impersonation_started", user)
    at = teller.later(at, seconds=120)
    yield told(at, inside, "settings.viewed", shop.target(), page=shift.pick(*SETTINGS_PAGES))
    at = teller.later(at, seconds=300)
    yield told(at, shift.who, "support.impersonation_ended", user)


SETTINGS_PAGES = ("checkout", "receipts", "webhooks", "taxes")


def let_a_shop_back_in(shift: Shift, at: int) -> Iterator[Moment]:
    shop = shift.shop()
    user = thing("user", shift.teller.rng.choice(shop.people))
    yield shift.tell(
        at,
        "password.reset_sent",
        user,
        tenant=shop.tenant,
        reason=f"{shift.ticket('SUP')}: called back on the number we have on file",
    )


def reach_too_far(shift: Shift, at: int) -> Iterator[Moment]:
    """Click on what one's role does not allow; nothing comes of it."""
    yield shift.tell(
        at,
        shift.pick("settlement.viewed", "customer.exported", "payout_account.viewed"),
        shift.shop().target(),
        outcome="denied",
        reason=f"the role {shift.person.team} does not allow it",
        tenant=COMPANY,
    )


def reconcile(shift: Shift, at: int) -> Iterator[Moment]:
    shop, teller = shift.shop(), shift.teller
    settlement = thing("settlement", teller.number("set", 880, 960))
    yield shift.tell(at, "settlement.viewed", settlement, tenant=shop.tenant)
    yield shift.tell(
        teller.later(at, seconds=900),
        "settlement.reconciled",
        settlement,
        tenant=shop.tenant,
        changes=[change("/status", "open", "reconciled")],
        difference_cents=teller.rng.choice((0, 0, 0, 0, 5, -120)),
    )


def approve_a_large_refund(shift: Shift, at: int) -> Iterator[Moment]:
    yield shift.tell(
        at,
        "refund.approved",
        thing("refund", shift.teller.number("rf", 61_000, 69_000)),
        reason=shift.ticket("FIN"),
        changes=[change("/status", "awaiting_approval", "approved")],
        tenant=shift.shop().tenant,
        amount_cents=shift.teller.rng.randrange(50_000, 140_000, 100),
    )


def export_the_books(shift: Shift, at: int) -> Iterator[Moment]:
    yield shift.tell(
        at,
        "report.exported",
        thing("report", shift.pick("rep_vat", "rep_fees", "rep_chargebacks"), "monthly books"),
        reason=shift.ticket("FIN"),
        tenant=COMPANY,
        format="csv",
        records=shift.teller.rng.randrange(80, 900),
    )


def fight_a_chargeback(shift: Shift, at: int) -> Iterator[Moment]:
    yield shift.tell(
        at,
        "chargeback.contested",
        thing("chargeback", shift.teller.number("cb", 300, 400)),
        reason=shift.pick(
            "delivery is proven", "the order was collected in the shop", "past the term"
        ),
        tenant=shift.shop().tenant,
    )


def ship(shift: Shift, at: int) -> Iterator[Moment]:
    """Merge, and let the deployer bring it out; one in twelve is rolled back."""
    teller, trace = shift.teller, shift.teller.trace()
    service = shift.pick("checkout", "merchant-web", "public-api", "gate", "ledger-sync")
    build = teller.number("build", 7100, 7900)
    old, new = f"{build[6:]}-a", f"{build[6:]}-b"
    target = thing("service", service)
    told = partial(teller.tell, tenant=COMPANY, trace=trace)
    yield told(
        at,
        shift.who.through("code-review"),
        "change.merged",
        target,
        reason=shift.ticket("ENG"),
        reviewers=teller.rng.randrange(1, 3),
    )
    at = teller.later(at, seconds=600)
    deployer = DEPLOYER.presence().on_behalf_of(shift.person.principal())
    yield told(at, deployer, "service.deployed", target, changes=[change("/build", old, new)])
    if teller.chance(1 / 12):
        yield told(
            teller.later(at, seconds=900),
            deployer,
            "service.rolled_back",
            target,
            reason="error rate above 1%",
            changes=[change("/build", new, old)],
        )


def flip_a_flag(shift: Shift, at: int) -> Iterator[Moment]:
    flag = shift.pick(
        "new-receipts", "one-page-checkout", "quiet-emails", "fast-refunds", "dark-mode"
    )
    percent = shift.teller.rng.choice((5, 10, 25, 50, 100))
    yield shift.tell(
        at,
        "feature_flag.changed",
        thing("feature_flag", flag),
        reason=shift.ticket("ENG"),
        changes=[change("/percent", percent // 2, percent)],
        tenant=shift.shop().tenant,
    )


def turn_a_knob(shift: Shift, at: int) -> Iterator[Moment]:
    key, before, after = shift.teller.rng.choice(KNOBS)
    yield shift.tell(
        at,
        "config.changed",
        thing("config", key),
        reason=shift.ticket("ENG"),
        changes=[change(f"/{key.replace('.', '/')}", before, after)],
        tenant=COMPANY,
    )


KNOBS: tuple[tuple[str, object, object], ...] = (
    ("checkout.timeout_ms", 2000, 2500),
    ("webhooks.retries", 5, 8),
    ("gate.session_hours", 12, 10),
    ("search.page_size", 50, 100),
    ("receipts.sender", "receipts", "hello"),
    ("fees.rounding", 0.005, 0.01),
)


def read_the_logs(shift: Shift, at: int) -> Iterator[Moment]:
    yield shift.tell(
        at,
        "service_log.viewed",
        thing("service", shift.pick("checkout", "public-api", "gate")),
        reason=shift.ticket("ENG"),
        tenant=COMPANY,
        span_minutes=shift.teller.rng.randrange(5, 120),
    )


def change_a_key(shift: Shift, at: int) -> Iterator[Moment]:
    """Rotate an API key of our own services: the new one first, the old one an hour later."""
    key = shift.teller.number("key", 100, 160)
    told = partial(shift.tell, reason=shift.ticket("ENG"), tenant=COMPANY)
    yield told(at, "api_key.created", thing("api_key", f"{key}b"), scopes=["orders:read"])
    yield told(
        shift.teller.later(at, seconds=3600),
        "api_key.revoked",
        thing("api_key", f"{key}a"),
        changes=[change("/status", "active", "revoked")],
    )


def change_a_role(shift: Shift, at: int) -> Iterator[Moment]:
    """Give a colleague another role; never `u_117`, whose roles are told elsewhere."""
    colleague = shift.teller.rng.choice([p for p in STAFF if p.id != INTRUDER.actor_id])
    before, after = shift.teller.rng.choice(
        ((colleague.team, f"{colleague.team}_lead"), (f"{colleague.team}_lead", colleague.team))
    )
    yield shift.tell(
        at,
        "user.role_changed",
        colleague.principal(),
        reason=shift.ticket("IT"),
        changes=[change("/role", before, after)],
        tenant=COMPANY,
    )


def tidy_devices(shift: Shift, at: int) -> Iterator[Moment]:
    device = thing("device", shift.teller.number("lap", 300, 340), "laptop")
    yield shift.tell(
        at,
        shift.pick("device.enrolled", "device.wiped", "device.patched"),
        device,
        reason=shift.ticket("IT"),
        tenant=COMPANY,
    )


def talk_to_a_shop(shift: Shift, at: int) -> Iterator[Moment]:
    shop = shift.shop()
    yield shift.tell(at, "shop.viewed", shop.target(), tenant=shop.tenant)
    if shift.teller.chance(0.3):
        before, after = shift.teller.rng.choice((("sprout", "orchard"), ("orchard", "forest")))
        yield shift.tell(
            shift.teller.later(at, seconds=1200),
            "shop.plan_changed",
            shop.target(),
            reason=f"{shift.ticket('SAL')}: {shift.pick('a good year 🎉', 'asked for it')}",
            changes=[change("/plan", before, after)],
            tenant=shop.tenant,
        )


def write_a_campaign(shift: Shift, at: int) -> Iterator[Moment]:
    campaign = thing("campaign", shift.teller.number("cmp", 40, 70), "spring letter")
    action = shift.pick("campaign.edited", "campaign.previewed", "campaign.scheduled")
    yield shift.tell(
        at, action, campaign, tenant=COMPANY, recipients=shift.teller.rng.randrange(90, 400)
    )


def throw_away(shift: Shift, at: int) -> Iterator[Moment]:
    kind, prefix = shift.teller.rng.choice(
        (("document", "doc"), ("saved_search", "sea"), ("draft", "dra"))
    )
    yield shift.tell(
        at, f"{kind}.deleted", thing(kind, shift.teller.number(prefix, 100, 900)), tenant=COMPANY
    )


def read_a_document(shift: Shift, at: int) -> Iterator[Moment]:
    document = thing("document", shift.teller.number("doc", 100, 900), shift.pick(*DOCUMENTS))
    yield shift.tell(at, "document.viewed", document, tenant=COMPANY)


DOCUMENTS = ("onboarding", "fee table", "holiday plan", "shop contract", "runbook: late settlement")

look_at_order = partial(look_at, action="order.viewed", kind="order", prefix="ord")
look_at_refund = partial(look_at, action="refund.viewed", kind="refund", prefix="rf")

CHORES: dict[str, dict[Chore, int]] = {
    "support": {
        help_a_customer: 8,
        look_at_order: 4,
        give_back: 4,
        sit_in_for_a_shop: 2,
        let_a_shop_back_in: 2,
        read_a_document: 1,
    },
    "finance": {
        reconcile: 6,
        look_at_refund: 4,
        approve_a_large_refund: 2,
        export_the_books: 2,
        fight_a_chargeback: 2,
        throw_away: 1,
    },
    "engineering": {
        ship: 5,
        read_the_logs: 5,
        flip_a_flag: 3,
        turn_a_knob: 2,
        change_a_key: 1,
        throw_away: 1,
        reach_too_far: 1,
    },
    "it": {
        change_a_role: 3,
        tidy_devices: 5,
        read_the_logs: 3,
        change_a_key: 1,
        read_a_document: 1,
    },
    "sales": {
        talk_to_a_shop: 6,
        write_a_campaign: 4,
        look_at_order: 2,
        reach_too_far: 1,
        throw_away: 1,
    },
    "office": {read_a_document: 5, talk_to_a_shop: 3, flip_a_flag: 1, throw_away: 2},
}
