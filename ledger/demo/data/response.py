"""Friday morning and after: the discovery, the lock-out, the clean-up."""

from collections.abc import Iterator, Mapping
from functools import partial

from ledger.demo.data.company import COMPANY, PERSON, SHOPS, STAFF
from ledger.demo.data.facts import INTRUDER
from ledger.demo.data.intrusion import INSIDE, ME, SCRIPT
from ledger.demo.data.telling import Day, Moment, Presence, Teller, change, thing

INCIDENT = thing("incident", INTRUDER.incident_id, "stolen support account")
ACCOUNT = thing("payout_account", INTRUDER.payout_account_id)
TOKEN = thing("token", INTRUDER.token_id, "reporting-sync")
SESSION = thing("session", INTRUDER.session_id)
DEVICE = thing("mfa_device", INTRUDER.mfa_device_id)
SPRAYERS = thing("network", INTRUDER.spray_network)
PIVOT = thing("network", INTRUDER.pivot_ip)
REFUNDS = tuple(thing("refund", id_) for id_ in INTRUDER.refund_ids)
RECALLED = 6
SEC_31 = "ticket SEC-31"


def response(teller: Teller) -> Iterator[Moment]:
    yield from discovery(teller)
    yield from pivoting(teller)
    yield from lock_out(teller)
    yield from knocking(teller)
    yield from undoing(teller)
    yield from new_passwords(teller)
    yield from closing_the_holes(teller)
    yield from telling_the_shops(teller)
    yield from aftermath(teller)


def at_desk(
    teller: Teller, id_: str, *, day: Day = Day.FRIDAY, service: str = "admin-web"
) -> Presence:
    return PERSON[id_].presence(teller, day, service=service)


def discovery(teller: Teller) -> Iterator[Moment]:
    """`u_108` sees money leave for a place that no settlement knows."""
    analyst = at_desk(teller, INTRUDER.discovered_by_id)
    at = partial(teller.at, Day.FRIDAY)
    told = partial(teller.tell, tenant=INTRUDER.payout_tenant, trace=teller.trace())
    report = thing("report", "rep_tin-comet-toys", "daily report of Tin Comet Toys")
    yield told(at("08:52"), analyst, "report.viewed", report)
    for number, refund in enumerate(REFUNDS):
        yield told(at(f"08:{54 + number // 2:02}"), analyst, "refund.viewed", refund)
    yield told(at("09:03"), analyst, "payout_account.viewed", ACCOUNT)
    yield told(
        at("09:07"),
        analyst,
        "ticket.created",
        thing("ticket", "SEC-31"),
        ACCOUNT,
        reason="nine refunds by night, each just under 500, to an account the shop does not know",
    )


def pivoting(teller: Teller) -> Iterator[Moment]:
    """`u_102` asks this log, which writes down who asked what."""
    responder = at_desk(teller, "u_102", service="ledger-console")
    told = partial(teller.tell, tenant=COMPANY, trace=teller.trace(), reason=SEC_31)
    for clock, query in (
        ("09:10", f"target:{INTRUDER.payout_account_id}"),
        ("09:13", f"actor:{INTRUDER.actor_id} since:-72h"),
        ("09:15", f"source:{INTRUDER.pivot_ip}"),
        ("09:17", f"session:{INTRUDER.session_id}"),
        ("09:19", f"source:{INTRUDER.spray_network} outcome:success"),
    ):
        yield told(
            teller.at(Day.FRIDAY, clock),
            responder,
            "audit.searched",
            thing("audit_log", "witnessed-ledger"),
            query=query,
        )
    yield told(
        teller.at(Day.FRIDAY, "09:21"), responder, "incident.declared", INCIDENT, severity="high"
    )


def lock_out(teller: Teller) -> Iterator[Moment]:
    it, finance = at_desk(teller, "u_104"), at_desk(teller, "u_105")
    told = partial(teller.tell, tenant=COMPANY, trace=teller.trace(), reason=SEC_31)
    rows: tuple[tuple[str, Presence, str, Mapping[str, str], str, str, str], ...] = (
        ("09:22", finance, "payout_account.frozen", ACCOUNT, "status", "active", "frozen"),
        ("09:24", it, "user.locked", ME, "status", "active", "locked"),
        ("09:25", it, "session.revoked", SESSION, "status", "active", "revoked"),
        ("09:26", it, "token.revoked", TOKEN, "status", "active", "revoked"),
        ("09:27", it, "mfa.device_removed", DEVICE, "status", "active", "removed"),
        ("09:44", it, "user.role_changed", ME, "role", "finance_admin", "support"),
        ("09:50", it, "firewall.rule_added", SPRAYERS, "rule", "allow", "deny"),
        ("09:51", it, "firewall.rule_added", PIVOT, "rule", "allow", "deny"),
    )
    for clock, who, action, target, key, before, after in rows:
        changes = [change(f"/{key}", before, after)]
        yield told(teller.at(Day.FRIDAY, clock), who, action, target, changes=changes)


def knocking(teller: Teller) -> Iterator[Moment]:
    """The intruder's door is shut; so is that of the real `u_117`, who has just come in."""
    told = partial(teller.tell, tenant=COMPANY, outcome="denied")
    at = partial(teller.at, Day.FRIDAY)
    yield told(at("09:31"), SCRIPT, "token.rejected", TOKEN, reason="revoked")
    yield told(at("09:33"), SCRIPT, "token.rejected", TOKEN, reason="revoked")
    yield told(at("09:36"), INSIDE.through("gate"), "session.resumed", ME, reason="revoked")
    yield told(at("09:38"), SCRIPT, "token.rejected", TOKEN, reason="revoked")
    real = at_desk(teller, INTRUDER.actor_id, service="gate").signed_out()
    yield told(at("09:40"), real, "login.failed", ME, reason="the account is locked")


def undoing(teller: Teller) -> Iterator[Moment]:
    finance, responder = at_desk(teller, "u_105"), at_desk(teller, "u_102")
    at = partial(teller.at, Day.FRIDAY)
    for number, refund in enumerate(REFUNDS):
        recalled = number >= len(REFUNDS) - RECALLED
        yield teller.tell(
            at(f"10:{2 + number:02}"),
            finance,
            "refund.recalled",
            refund,
            ACCOUNT,
            outcome="success" if recalled else "failure",
            reason=f"{SEC_31}: {'caught in time' if recalled else 'already paid out'}",
            changes=[change("/status", "sent", "recalled")] if recalled else (),
            tenant=INTRUDER.payout_tenant,
        )
    yield teller.tell(
        at("10:30"),
        responder.through("ledger-console"),
        "evidence.exported",
        INCIDENT,
        reason=SEC_31,
        tenant=COMPANY,
        files=3,
        with_proofs=True,
    )


def new_passwords(teller: Teller) -> Iterator[Moment]:
    """At eleven everybody must choose a new one; `u_117` chooses hers at the IT desk."""
    it = at_desk(teller, "u_104")
    told = partial(teller.tell, tenant=COMPANY, reason=SEC_31, trace=teller.trace())
    for person in STAFF:
        yield told(
            teller.at(Day.FRIDAY, "11:00"),
            it,
            "password.reset_required",
            person.principal(),
            changes=[change("/password", "current", "expired")],
        )
        clock = (
            "15:10" if person.id == INTRUDER.actor_id else f"13:{teller.rng.randrange(5, 60):02}"
        )
        yield told(
            teller.at(Day.FRIDAY, clock),
            at_desk(teller, person.id, service="gate"),
            "password.changed",
            person.principal(),
        )
    yield told(
        teller.at(Day.FRIDAY, "15:08"),
        it,
        "user.unlocked",
        ME,
        changes=[change("/status", "locked", "active")],
        seen_in_person=True,
    )
    victim = at_desk(teller, INTRUDER.actor_id, service="gate")
    key = thing("mfa_device", "dev_37", "security key")
    yield told(teller.at(Day.FRIDAY, "15:14"), victim, "mfa.device_added", ME, key)
    yield told(teller.at(Day.FRIDAY, "15:16"), victim, "login.succeeded", ME, mfa="verified")


def closing_the_holes(teller: Teller) -> Iterator[Moment]:
    """Impersonation of colleagues, exemptions, and payout accounts that one person can add."""
    for clock, id_, key, before, after in (
        ("13:10", "u_110", "support.impersonates", "anyone", "shop_users"),
        ("14:00", "u_104", "gate.mfa_exemptions", True, False),
        ("14:20", "u_111", "payouts.approvers", 1, 2),
        ("14:45", "u_109", "alerts.failed_logins.severity", "low", "high"),
    ):
        yield teller.tell(
            teller.at(Day.FRIDAY, clock),
            at_desk(teller, id_),
            "config.changed",
            thing("config", key),
            reason=SEC_31,
            changes=[change(f"/{key.replace('.', '/')}", before, after)],
            tenant=COMPANY,
        )


def telling_the_shops(teller: Teller) -> Iterator[Moment]:
    for minute, shop in enumerate(SHOPS):
        yield teller.tell(
            teller.at(Day.FRIDAY, f"16:{2 * minute:02}"),
            at_desk(teller, "u_103"),
            "shop.notified",
            shop.target(),
            INCIDENT,
            reason=SEC_31,
            tenant=shop.tenant,
            template="breach-first-notice",
        )
    yield teller.tell(
        teller.at(Day.FRIDAY, "16:20"),
        at_desk(teller, "u_101"),
        "authority.notified",
        INCIDENT,
        reason=f"{SEC_31}: personal data, within 72 hours",
        tenant=COMPANY,
    )


def aftermath(teller: Teller) -> Iterator[Moment]:
    """The weekend: new keys for every shop, a look back, and the incident is closed."""
    for number, shop in enumerate(SHOPS):
        engineer = at_desk(teller, "u_110", day=Day.SATURDAY)
        yield teller.tell(
            teller.at(Day.SATURDAY, f"10:{10 + 4 * number}"),
            engineer,
            "api_key.rotated",
            thing("api_key", f"key_{300 + number}"),
            shop.target(),
            reason=SEC_31,
            changes=[change("/generation", 1, 2)],
            tenant=shop.tenant,
        )
    responder = at_desk(teller, "u_102", day=Day.SUNDAY)
    told = partial(teller.tell, tenant=COMPANY, reason=SEC_31)
    yield told(
        teller.at(Day.SATURDAY, "15:30"),
        responder,
        "document.created",
        thing("document", "doc_931", "what happened, and what we change"),
        INCIDENT,
    )
    yield told(
        teller.at(Day.SUNDAY, "16:40"),
        responder,
        "incident.closed",
        INCIDENT,
        changes=[change("/status", "open", "closed")],
    )
