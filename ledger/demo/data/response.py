"""Friday morning and after: the discovery, the lock-out, the clean-up."""

from collections.abc import Iterator
from functools import partial

from ledger.demo.data.company import COMPANY, PERSON, SHOPS, STAFF
from ledger.demo.data.event_maker import Caller, Day, EventMaker, Row, TimedEvent, thing
from ledger.demo.data.facts import INTRUDER
from ledger.demo.data.intrusion import (
    ACCOUNT,
    AUDIT_LOG,
    DEVICE,
    INSIDE,
    ME,
    REFUNDS,
    SCRIPT,
    SESSION,
    TOKEN,
)

INCIDENT = thing("incident", INTRUDER.incident_id, "stolen support account")
GUESSERS = thing("network", INTRUDER.spray_network)
PIVOT = thing("network", INTRUDER.pivot_ip)
RECALLED = 6
SEC_31 = "ticket SEC-31"


def response(maker: EventMaker) -> Iterator[TimedEvent]:
    friday = partial(maker.events, Day.FRIDAY)
    about = partial(friday, tenant=COMPANY, reason=SEC_31)
    toys = INTRUDER.payout_tenant
    yield from friday(discovery(maker), tenant=toys, trace=maker.trace())
    yield from about(investigation(maker), trace=maker.trace())
    yield from about(lock_out(maker), trace=maker.trace())
    yield from friday(rejected(maker), tenant=COMPANY, outcome="denied")
    yield from friday(recalls(maker), tenant=toys)
    exported = Row(
        "10:30",
        at_desk(maker, "u_102", service="ledger-console"),
        "evidence.exported",
        (INCIDENT,),
        {"files": 3, "with_proofs": True},
    )
    yield from about([exported])
    yield from about(new_passwords(maker), trace=maker.trace())
    yield from about(fixes(maker))
    yield from about(notices(maker))
    saturday, sunday = aftermath(maker)
    yield from maker.events(Day.SATURDAY, saturday, reason=SEC_31)
    yield from maker.events(Day.SUNDAY, sunday, tenant=COMPANY, reason=SEC_31)


def at_desk(
    maker: EventMaker, id_: str, *, day: Day = Day.FRIDAY, service: str = "admin-web"
) -> Caller:
    return PERSON[id_].caller(maker, day, service=service)


def discovery(maker: EventMaker) -> Iterator[Row]:
    """`u_108` sees refunds to an account that no settlement knows."""
    analyst = at_desk(maker, INTRUDER.discovered_by_id)
    report = thing("report", "rep_tin-comet-toys", "daily report of Tin Comet Toys")
    yield Row("08:52", analyst, "report.viewed", (report,))
    for number, refund in enumerate(REFUNDS):
        yield Row(f"08:{54 + number // 2:02}", analyst, "refund.viewed", (refund,))
    yield Row("09:03", analyst, "payout_account.viewed", (ACCOUNT,))
    why = "nine refunds by night, each just under 500, to an account the shop does not know"
    opened = (thing("ticket", "SEC-31"), ACCOUNT)
    yield Row("09:07", analyst, "ticket.created", opened, {"reason": why})


def investigation(maker: EventMaker) -> Iterator[Row]:
    """`u_102` asks this log, which records who asked what."""
    responder = at_desk(maker, "u_102", service="ledger-console")
    for clock, query in (
        ("09:10", f"target:{INTRUDER.payout_account_id}"),
        ("09:13", f"actor:{INTRUDER.actor_id} since:-72h"),
        ("09:15", f"source:{INTRUDER.pivot_ip}"),
        ("09:17", f"session:{INTRUDER.session_id}"),
        ("09:19", f"source:{INTRUDER.spray_network} outcome:success"),
    ):
        yield Row(clock, responder, "audit.searched", (AUDIT_LOG,), {"query": query})
    yield Row("09:21", responder, "incident.declared", (INCIDENT,), {"severity": "high"})


def lock_out(maker: EventMaker) -> Iterator[Row]:
    it, finance = at_desk(maker, "u_104"), at_desk(maker, "u_105")
    yield Row("09:22", finance, "payout_account.frozen", (ACCOUNT,), status("active", "frozen"))
    yield Row("09:24", it, "user.locked", (ME,), status("active", "locked"))
    yield Row("09:25", it, "session.revoked", (SESSION,), status("active", "revoked"))
    yield Row("09:26", it, "token.revoked", (TOKEN,), status("active", "revoked"))
    yield Row("09:27", it, "mfa.device_removed", (DEVICE,), status("active", "removed"))
    yield Row("09:44", it, "user.role_changed", (ME,), {"/role": ("finance_admin", "support")})
    yield Row("09:50", it, "firewall.rule_added", (GUESSERS,), {"/rule": ("allow", "deny")})
    yield Row("09:51", it, "firewall.rule_added", (PIVOT,), {"/rule": ("allow", "deny")})


def status(before: str, after: str) -> dict[str, tuple[str, str]]:
    return {"/status": (before, after)}


def rejected(maker: EventMaker) -> Iterator[Row]:
    """The intruder is locked out; so is the real `u_117`, who has just come in."""
    revoked = {"reason": "revoked"}
    yield Row("09:31", SCRIPT, "token.rejected", (TOKEN,), revoked)
    yield Row("09:33", SCRIPT, "token.rejected", (TOKEN,), revoked)
    yield Row("09:36", INSIDE.via("gate"), "session.resumed", (ME,), revoked)
    yield Row("09:38", SCRIPT, "token.rejected", (TOKEN,), revoked)
    owner = at_desk(maker, INTRUDER.actor_id, service="gate").without_session()
    yield Row("09:40", owner, "login.failed", (ME,), {"reason": "the account is locked"})


def recalls(maker: EventMaker) -> Iterator[Row]:
    finance = at_desk(maker, "u_105")
    caught = {"reason": f"{SEC_31}: caught in time", **status("sent", "recalled")}
    lost = {"reason": f"{SEC_31}: already paid out", "outcome": "failure"}
    for number, refund in enumerate(REFUNDS):
        details = caught if number >= len(REFUNDS) - RECALLED else lost
        yield Row(f"10:{2 + number:02}", finance, "refund.recalled", (refund, ACCOUNT), details)


def new_passwords(maker: EventMaker) -> Iterator[Row]:
    """At eleven everybody must choose a new one; `u_117` chooses hers at the IT desk."""
    it, owner = at_desk(maker, "u_104"), at_desk(maker, INTRUDER.actor_id, service="gate")
    expired = {"/password": ("current", "expired")}
    for person in STAFF:
        me = (person.principal(),)
        yield Row("11:00", it, "password.reset_required", me, expired)
        is_owner = person.id == INTRUDER.actor_id
        clock = "15:10" if is_owner else f"13:{maker.rng.randrange(5, 60):02}"
        yield Row(clock, at_desk(maker, person.id, service="gate"), "password.changed", me)
    unlocked = status("locked", "active") | {"seen_in_person": True}
    yield Row("15:08", it, "user.unlocked", (ME,), unlocked)
    key = thing("mfa_device", "dev_37", "security key")
    yield Row("15:14", owner, "mfa.device_added", (ME, key))
    yield Row("15:16", owner, "login.succeeded", (ME,), {"mfa": "verified"})


def fixes(maker: EventMaker) -> Iterator[Row]:
    """No more impersonated colleagues, exemptions, or payout accounts that one person can add."""
    for clock, id_, key, before, after in (
        ("13:10", "u_110", "support.impersonates", "anyone", "shop_users"),
        ("14:00", "u_104", "gate.mfa_exemptions", True, False),
        ("14:20", "u_111", "payouts.approvers", 1, 2),
        ("14:45", "u_109", "alerts.failed_logins.severity", "low", "high"),
    ):
        changes = {f"/{key.replace('.', '/')}": (before, after)}
        yield Row(clock, at_desk(maker, id_), "config.changed", (thing("config", key),), changes)


def notices(maker: EventMaker) -> Iterator[Row]:
    support, director = at_desk(maker, "u_103"), at_desk(maker, "u_101")
    for number, shop in enumerate(SHOPS):
        details = {"tenant": shop.tenant, "template": "breach-first-notice"}
        clock = f"16:{2 * number:02}"
        yield Row(clock, support, "shop.notified", (shop.target(), INCIDENT), details)
    within = {"reason": f"{SEC_31}: personal data, within 72 hours"}
    yield Row("16:20", director, "authority.notified", (INCIDENT,), within)


def aftermath(maker: EventMaker) -> tuple[list[Row], list[Row]]:
    """The weekend: new keys for every shop, a review, and the incident is closed."""
    engineer = at_desk(maker, "u_110", day=Day.SATURDAY)
    responder = at_desk(maker, "u_102", day=Day.SUNDAY)
    saturday = [
        Row(
            f"10:{10 + 4 * number}",
            engineer,
            "api_key.rotated",
            (thing("api_key", f"key_{300 + number}"), shop.target()),
            {"/generation": (1, 2), "tenant": shop.tenant},
        )
        for number, shop in enumerate(SHOPS)
    ]
    review = thing("document", "doc_931", "what happened, and what we change")
    document = (review, INCIDENT)
    saturday.append(Row("15:30", responder, "document.created", document, {"tenant": COMPANY}))
    closed = Row("16:40", responder, "incident.closed", (INCIDENT,), status("open", "closed"))
    return saturday, [closed]
