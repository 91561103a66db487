"""The daily work of each team, as tasks that make events.

A task is a function of a shift and a time. It draws from the shift's randomness in the order of its
lines. `TASKS` says how often each team does what.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ledger.demo.data.company import COMPANY, INTRUDER, MACHINE, SHOPS, STAFF, Person, Shop
from ledger.demo.data.event_maker import Caller, Details, EventMaker, Thing, TimedEvent, thing


@dataclass(frozen=True, slots=True)
class Shift:
    """One person's day at work, in one session."""

    maker: EventMaker
    person: Person
    caller: Caller

    def shop(self) -> Shop:
        return self.maker.rng.choice(SHOPS)

    def numbered(
        self, kind: str, prefix: str, first: int, end: int, name: str | None = None
    ) -> Thing:
        return thing(kind, self.maker.number(prefix, first, end), name)

    def ticket(self, desk: str) -> str:
        return f"ticket {desk}-{self.maker.rng.randrange(2100, 2400)}"

    def pick(self, *choices: Any) -> Any:
        return self.maker.rng.choice(choices)

    def event(self, at: int, action: str, *targets: Thing, **rest: Any) -> TimedEvent:
        return self.maker.event(at, self.caller, action, *targets, **{"tenant": COMPANY, **rest})


Task = Callable[[Shift, int], Iterator[TimedEvent]]


def help_a_customer(shift: Shift, at: int) -> Iterator[TimedEvent]:
    """Find the customer, read the record, and sometimes correct it."""
    maker, shop, trace = shift.maker, shift.shop(), shift.maker.trace()
    customer = shift.numbered("customer", "cus", 4000, 4900)
    event = partial(shift.event, reason=shift.ticket("SUP"), tenant=shop.tenant, trace=trace)
    yield event(at, "customer.searched", shop.target(), results=maker.rng.randrange(1, 9))
    at = maker.later(at, seconds=90)
    yield event(at, "customer.viewed", customer)
    if maker.chance(0.4):
        at = maker.later(at, seconds=400)
        language = {"/language": ("en", shift.pick("de", "fr", "pt"))}
        yield event(at, "customer.updated", customer, **language)


def refund_an_order(shift: Shift, at: int) -> Iterator[TimedEvent]:
    """Refund an order to the card that paid for it."""
    shop, cents = shift.shop(), shift.maker.rng.randrange(900, 18_000, 50)
    yield shift.event(
        at,
        "refund.created",
        shift.numbered("refund", "rf", 61_000, 69_000),
        shift.numbered("order", "ord", 12_000, 19_000),
        reason=f"{shift.ticket('SUP')}: {shift.pick(*REFUND_REASONS)}",
        tenant=shop.tenant,
        currency="EUR",
        destination="original_card",
        **{"/refunded_cents": (0, cents)},
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


def impersonate_a_shop(shift: Shift, at: int) -> Iterator[TimedEvent]:
    """Impersonate a person of a shop, who asked for it, to see what they see."""
    maker, shop, trace = shift.maker, shift.shop(), shift.maker.trace()
    user = thing("user", maker.rng.choice(shop.people))
    event = partial(maker.event, tenant=shop.tenant, reason=shift.ticket("SUP"), trace=trace)
    inside = shift.caller.on_behalf_of(user).via("merchant-web")
    yield event(at, shift.caller, "support.impersonation_started", user)
    at = maker.later(at, seconds=120)
    page = shift.pick("checkout", "receipts", "webhooks", "taxes")
    yield event(at, inside, "settings.viewed", shop.target(), page=page)
    at = maker.later(at, seconds=300)
    yield event(at, shift.caller, "support.impersonation_ended", user)


def reset_a_password(shift: Shift, at: int) -> Iterator[TimedEvent]:
    shop = shift.shop()
    user = thing("user", shift.maker.rng.choice(shop.people))
    reason = f"{shift.ticket('SUP')}: called back on the number we have on file"
    yield shift.event(at, "password.reset_sent", user, tenant=shop.tenant, reason=reason)


def try_what_is_denied(shift: Shift, at: int) -> Iterator[TimedEvent]:
    action = shift.pick("settlement.viewed", "customer.exported", "payout_account.viewed")
    reason = f"the role {shift.person.team} does not allow it"
    yield shift.event(at, action, shift.shop().target(), outcome="denied", reason=reason)


def reconcile(shift: Shift, at: int) -> Iterator[TimedEvent]:
    shop, maker = shift.shop(), shift.maker
    settlement = shift.numbered("settlement", "set", 880, 960)
    event = partial(shift.event, tenant=shop.tenant)
    yield event(at, "settlement.viewed", settlement)
    at, cents = maker.later(at, seconds=900), shift.pick(0, 0, 0, 0, 5, -120)
    result: Details = {"/status": ("open", "reconciled"), "difference_cents": cents}
    yield event(at, "settlement.reconciled", settlement, **result)


def deploy(shift: Shift, at: int) -> Iterator[TimedEvent]:
    """Merge a change, which the deployer then deploys; one in twelve is rolled back."""
    maker = shift.maker
    event = partial(maker.event, tenant=COMPANY, trace=maker.trace())
    services = ("checkout", "merchant-web", "public-api", "gate", "ledger-sync")
    target = thing("service", shift.pick(*services))
    build = maker.number("build", 7100, 7900)[6:]
    old, new = f"{build}-a", f"{build}-b"
    reason, reviewers = shift.ticket("ENG"), maker.rng.randrange(1, 3)
    review = shift.caller.via("code-review")
    yield event(at, review, "change.merged", target, reason=reason, reviewers=reviewers)
    at = maker.later(at, seconds=600)
    deployer = MACHINE["svc_deployer"].caller().on_behalf_of(shift.person.principal())
    deployed: Details = {"/build": (old, new)}
    yield event(at, deployer, "service.deployed", target, **deployed)
    if maker.chance(1 / 12):
        at = maker.later(at, seconds=900)
        rolled_back: Details = {"reason": "error rate above 1%", "/build": (new, old)}
        yield event(at, deployer, "service.rolled_back", target, **rolled_back)


def change_a_flag(shift: Shift, at: int) -> Iterator[TimedEvent]:
    flags = ("new-receipts", "one-page-checkout", "quiet-emails", "fast-refunds", "dark-mode")
    flag, percent = thing("feature_flag", shift.pick(*flags)), shift.pick(5, 10, 25, 50, 100)
    details = {"reason": shift.ticket("ENG"), "/percent": (percent // 2, percent)}
    yield shift.event(at, "feature_flag.changed", flag, tenant=shift.shop().tenant, **details)


def change_a_setting(shift: Shift, at: int) -> Iterator[TimedEvent]:
    key, before, after = shift.pick(*SETTINGS)
    change = {"reason": shift.ticket("ENG"), f"/{key.replace('.', '/')}": (before, after)}
    yield shift.event(at, "config.changed", thing("config", key), **change)


SETTINGS: tuple[tuple[str, object, object], ...] = (
    ("checkout.timeout_ms", 2000, 2500),
    ("webhooks.retries", 5, 8),
    ("gate.session_hours", 12, 10),
    ("search.page_size", 50, 100),
    ("receipts.sender", "receipts", "hello"),
    ("fees.rounding", 0.005, 0.01),
)


def rotate_a_key(shift: Shift, at: int) -> Iterator[TimedEvent]:
    """Rotate an API key of the company: the new one first, the old one ends an hour later."""
    key = shift.maker.number("key", 100, 160)
    event = partial(shift.event, reason=shift.ticket("ENG"))
    yield event(at, "api_key.created", thing("api_key", f"{key}b"), scopes=["orders:read"])
    at = shift.maker.later(at, seconds=3600)
    revoked = {"/status": ("active", "revoked")}
    yield event(at, "api_key.revoked", thing("api_key", f"{key}a"), **revoked)


def change_a_role(shift: Shift, at: int) -> Iterator[TimedEvent]:
    """Give a colleague another role; never `u_117`, whose roles belong to the intrusion."""
    colleague = shift.pick(*(p for p in STAFF if p.id != INTRUDER.actor_id))
    team, lead = colleague.team, f"{colleague.team}_lead"
    details = {"/role": shift.pick((team, lead), (lead, team)), "reason": shift.ticket("IT")}
    yield shift.event(at, "user.role_changed", colleague.principal(), **details)


def talk_to_a_shop(shift: Shift, at: int) -> Iterator[TimedEvent]:
    shop, maker = shift.shop(), shift.maker
    yield shift.event(at, "shop.viewed", shop.target(), tenant=shop.tenant)
    if maker.chance(0.3):
        plans = shift.pick(("sprout", "orchard"), ("orchard", "forest"))
        at = maker.later(at, seconds=1200)
        reason = f"{shift.ticket('SAL')}: {shift.pick('a good year 🎉', 'asked for it')}"
        changed = {"tenant": shop.tenant, "reason": reason, "/plan": plans}
        yield shift.event(at, "shop.plan_changed", shop.target(), **changed)


def delete_a_draft(shift: Shift, at: int) -> Iterator[TimedEvent]:
    kind, prefix = shift.pick(("document", "doc"), ("saved_search", "sea"), ("draft", "dra"))
    yield shift.event(at, f"{kind}.deleted", shift.numbered(kind, prefix, 100, 900))


def read_a_document(shift: Shift, at: int) -> Iterator[TimedEvent]:
    number, name = shift.maker.number("doc", 100, 900), shift.pick(*DOCUMENTS)
    yield shift.event(at, "document.viewed", thing("document", number, name))


DOCUMENTS = ("onboarding", "fee table", "holiday plan", "shop contract", "runbook: late settlement")


def view_an_order(shift: Shift, at: int) -> Iterator[TimedEvent]:
    order = shift.numbered("order", "ord", 4000, 4900)
    yield shift.event(at, "order.viewed", order, tenant=shift.shop().tenant)


def view_a_refund(shift: Shift, at: int) -> Iterator[TimedEvent]:
    refund = shift.numbered("refund", "rf", 4000, 4900)
    yield shift.event(at, "refund.viewed", refund, tenant=shift.shop().tenant)


def approve_a_refund(shift: Shift, at: int) -> Iterator[TimedEvent]:
    refund = shift.numbered("refund", "rf", 61_000, 69_000)
    details = {
        "reason": shift.ticket("FIN"),
        "tenant": shift.shop().tenant,
        "amount_cents": shift.maker.rng.randrange(50_000, 140_000, 100),
        "/status": ("awaiting_approval", "approved"),
    }
    yield shift.event(at, "refund.approved", refund, **details)


def export_the_books(shift: Shift, at: int) -> Iterator[TimedEvent]:
    id_, reason = shift.pick("rep_vat", "rep_fees", "rep_chargebacks"), shift.ticket("FIN")
    details = {"reason": reason, "format": "csv", "records": shift.maker.rng.randrange(80, 900)}
    yield shift.event(at, "report.exported", thing("report", id_, "monthly books"), **details)


def contest_a_chargeback(shift: Shift, at: int) -> Iterator[TimedEvent]:
    chargeback = shift.numbered("chargeback", "cb", 300, 400)
    reasons = ("delivery is proven", "the order was collected in the shop", "past the term")
    details = {"reason": shift.pick(*reasons), "tenant": shift.shop().tenant}
    yield shift.event(at, "chargeback.contested", chargeback, **details)


def read_the_logs(shift: Shift, at: int) -> Iterator[TimedEvent]:
    service = thing("service", shift.pick("checkout", "public-api", "gate"))
    details = {"reason": shift.ticket("ENG"), "span_minutes": shift.maker.rng.randrange(5, 120)}
    yield shift.event(at, "service_log.viewed", service, **details)


def maintain_a_device(shift: Shift, at: int) -> Iterator[TimedEvent]:
    device = shift.numbered("device", "lap", 300, 340, "laptop")
    action = shift.pick("device.enrolled", "device.wiped", "device.patched")
    yield shift.event(at, action, device, reason=shift.ticket("IT"))


def edit_a_campaign(shift: Shift, at: int) -> Iterator[TimedEvent]:
    campaign = shift.numbered("campaign", "cmp", 40, 70, "spring letter")
    action = shift.pick("campaign.edited", "campaign.previewed", "campaign.scheduled")
    yield shift.event(at, action, campaign, recipients=shift.maker.rng.randrange(90, 400))


# fmt: off
TASKS: dict[str, dict[Task, int]] = {
    "support": {
        help_a_customer: 8, view_an_order: 4, refund_an_order: 4, impersonate_a_shop: 2,
        reset_a_password: 2, read_a_document: 1,
    },
    "finance": {
        reconcile: 6, view_a_refund: 4, approve_a_refund: 2, export_the_books: 2,
        contest_a_chargeback: 2, delete_a_draft: 1,
    },
    "engineering": {
        deploy: 5, read_the_logs: 5, change_a_flag: 3, change_a_setting: 2, rotate_a_key: 1,
        delete_a_draft: 1, try_what_is_denied: 1,
    },
    "it": {
        change_a_role: 3, maintain_a_device: 5, read_the_logs: 3, rotate_a_key: 1,
        read_a_document: 1,
    },
    "sales": {
        talk_to_a_shop: 6, edit_a_campaign: 4, view_an_order: 2, try_what_is_denied: 1,
        delete_a_draft: 1,
    },
    "office": {read_a_document: 5, talk_to_a_shop: 3, change_a_flag: 1, delete_a_draft: 2},
}
# fmt: on
