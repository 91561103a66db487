"""Three nights: the guess, the grab, and the money. The module `facts` holds what stays fixed."""

from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network

from ledger.demo.data.company import COMPANY, PERSON, SHOPS, WATCH
from ledger.demo.data.facts import INTRUDER
from ledger.demo.data.telling import SECOND_US, Day, Moment, Presence, Teller, change, thing

VICTIM = PERSON[INTRUDER.actor_id]
ADMIN = PERSON[INTRUDER.impersonated_id]
ME = VICTIM.principal()

AT_THE_DOOR = Presence(
    ME | {"session": INTRUDER.session_id},
    {
        "ip": INTRUDER.entry_ip,
        "user_agent": "Mozilla/5.0 (Windows NT 6.1; rv:102.0) Gecko/20100101 Firefox/102.0",
        "service": "gate",
    },
)
INSIDE = Presence(
    AT_THE_DOOR.actor,
    {
        "ip": INTRUDER.pivot_ip,
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/109.0.0.0",
        "service": "admin-web",
    },
)
# The token needs no session, so the address is all that ties its calls to the rest.
SCRIPT = Presence(
    ME | {"credential": INTRUDER.token_id},
    {"ip": INTRUDER.pivot_ip, "user_agent": "python-requests/2.31.0", "service": "public-api"},
)
AS_ADMIN = INSIDE.on_behalf_of(ADMIN.principal())


def intrusion(teller: Teller) -> Iterator[Moment]:
    yield exemption(teller)
    yield from spraying(teller)
    yield from alert_that_nobody_read(teller)
    yield from settling_in(teller)
    yield from promotion(teller)
    yield from grab(teller)
    yield from covering_up(teller)
    yield from refunds(teller)


def exemption(teller: Teller) -> Moment:
    """Monday's kindness."""
    return teller.tell(
        teller.at(Day.MONDAY, "09:20"),
        ADMIN.presence(teller, Day.MONDAY),
        "mfa.exempted",
        ME,
        reason=f"ticket {INTRUDER.reused_ticket}: phone broken, the new one comes on Friday",
        changes=[change("/mfa", "required", "exempt")],
        tenant=COMPANY,
    )


ROUNDS = ("22:41", "23:01", "23:21", "23:41")
HIT, STOPPED_BY_MFA = (3, INTRUDER.actor_id), (1, INTRUDER.guessed_only_id)
NO_SUCH_USERS = ("admin", "info", "support", "test")
SECONDS_BETWEEN_GUESSES = 37


def spraying(teller: Teller) -> Iterator[Moment]:
    """One guess an account and round, from an address that changes; once guessed, no more."""
    addresses = list(IPv4Network(INTRUDER.spray_network))[40:72]
    accounts = [*PERSON, *NO_SUCH_USERS]
    for number, clock in enumerate(ROUNDS):
        teller.rng.shuffle(accounts)
        for turn, account in enumerate(accounts):
            if (number, account) in (HIT, STOPPED_BY_MFA):
                continue
            if account == INTRUDER.guessed_only_id and number > STOPPED_BY_MFA[0]:
                continue
            at = teller.at(Day.TUESDAY, clock) + turn * SECONDS_BETWEEN_GUESSES * SECOND_US
            who = sprayer(teller, teller.rng.choice(addresses), account)
            yield teller.tell(
                at,
                who,
                "login.failed",
                thing("user", account),
                outcome="failure",
                reason="wrong password" if account in PERSON else "no such user",
                tenant=COMPANY,
            )
    stopped = sprayer(teller, addresses[7], INTRUDER.guessed_only_id)
    yield teller.tell(
        teller.at(Day.TUESDAY, "23:09"),
        stopped,
        "login.mfa_failed",
        thing("user", INTRUDER.guessed_only_id),
        outcome="denied",
        reason="no second factor within 60 s",
        tenant=COMPANY,
    )


def sprayer(teller: Teller, address: IPv4Address, account: str) -> Presence:
    return Presence(
        thing("user" if account in PERSON else "unknown", account),
        {
            "ip": str(address),
            "port": teller.rng.randrange(32_768, 61_000),
            "user_agent": "python-requests/2.31.0",
            "service": "gate",
        },
    )


def alert_that_nobody_read(teller: Teller) -> Iterator[Moment]:
    alert = thing("alert", "alr_731", "many failed logins, many accounts")
    told = partial(teller.tell, tenant=COMPANY)
    watch = WATCH.presence()
    yield told(
        teller.at(Day.TUESDAY, "23:18"),
        watch,
        "alert.raised",
        alert,
        reason="more than 50 failed logins in an hour",
        severity="low",
    )
    yield told(
        teller.at(Day.WEDNESDAY, "05:18"),
        watch,
        "alert.closed",
        alert,
        outcome="unknown",
        reason="nobody answered within 6 h",
    )


def settling_in(teller: Teller) -> Iterator[Moment]:
    """In at 23:47, from another address at 00:04, and two ways to come back by half past."""
    told = partial(teller.tell, tenant=COMPANY, trace=teller.trace())
    yield told(
        teller.at(Day.TUESDAY, "23:47"),
        AT_THE_DOOR,
        "login.succeeded",
        ME,
        method="password",
        mfa="exempt",
    )
    yield told(
        teller.at(Day.TUESDAY, "23:49"), AT_THE_DOOR.through("admin-web"), "profile.viewed", ME
    )
    scopes = (change("/scopes", [], ["customers:read"]),)
    for clock, action, target, changes in (
        ("00:04", "session.resumed", thing("session", INTRUDER.session_id), ()),
        ("00:11", "mfa.device_added", thing("mfa_device", INTRUDER.mfa_device_id), ()),
        ("00:19", "token.created", thing("token", INTRUDER.token_id, "reporting-sync"), scopes),
        ("00:26", "document.viewed", thing("document", "doc_112", "how we impersonate"), ()),
        ("00:29", "document.viewed", thing("document", "doc_118", "refunds and limits"), ()),
        ("00:33", "user.listed", thing("directory", "staff"), ()),
    ):
        yield told(teller.at(Day.WEDNESDAY, clock), INSIDE, action, ME, target, changes=changes)


def promotion(teller: Teller) -> Iterator[Moment]:
    """Denied as herself, granted as the administrator: colleagues can be impersonated."""
    told = partial(teller.tell, tenant=COMPANY, trace=teller.trace())
    to_finance = [change("/role", "support", "finance_admin")]
    ticket = f"ticket {INTRUDER.reused_ticket}"
    at = partial(teller.at, Day.THURSDAY)
    session = thing("session", INTRUDER.session_id)
    yield told(at("01:41"), INSIDE, "session.resumed", session)
    yield told(
        at("01:52"),
        INSIDE,
        "user.role_changed",
        ME,
        changes=to_finance,
        outcome="denied",
        reason="only an administrator changes roles",
    )
    yield told(
        at("01:58"), INSIDE, "support.impersonation_started", ADMIN.principal(), reason=ticket
    )
    yield told(at("02:09"), AS_ADMIN, "user.role_changed", ME, changes=to_finance, reason=ticket)
    yield told(at("02:11"), INSIDE, "support.impersonation_ended", ADMIN.principal(), reason=ticket)


SEARCHES, VIEWS = 12, 24
EXPORT = thing("export", INTRUDER.export_id, "customers of all shops")


def grab(teller: Teller) -> Iterator[Moment]:
    """By script: search, read a few to see what is in them, take them all."""
    start = teller.at(Day.THURSDAY, "02:16")
    for number in range(SEARCHES + VIEWS):
        at = start + number * 80 * SECOND_US + teller.rng.randrange(60 * SECOND_US)
        shop = SHOPS[number % len(SHOPS)]
        if number % 3 == 0:
            yield teller.tell(
                at,
                SCRIPT,
                "customer.searched",
                shop.target(),
                tenant=shop.tenant,
                query="*",
                results=teller.rng.randrange(4000, 12_000),
            )
        else:
            customer = thing("customer", teller.number("cus", 4000, 4900))
            yield teller.tell(at, SCRIPT, "customer.viewed", customer, tenant=shop.tenant)
    told = partial(teller.tell, tenant=COMPANY)
    yield told(
        teller.at(Day.THURSDAY, "03:12"),
        SCRIPT,
        "customer.exported",
        EXPORT,
        *(shop.target() for shop in SHOPS),
        format="csv",
        records=INTRUDER.exported_records,
    )
    yield told(
        teller.at(Day.THURSDAY, "03:14"), SCRIPT, "export.downloaded", EXPORT, bytes=9_114_622
    )


def covering_up(teller: Teller) -> Iterator[Moment]:
    """What it deletes is gone from the applications; that it was deleted stays here."""
    told = partial(teller.tell, tenant=COMPANY, trace=teller.trace())
    forwarding = thing("config", "audit.forwarding")
    off = (change("/audit/forwarding", before=True, after=False),)
    warning = thing("notification", "ntf_5512", "new device added")
    searches, log = thing("search_history", VICTIM.id), thing("audit_log", "witnessed-ledger")
    for clock, action, target, changes, refusal in (
        ("03:27", "audit.forwarding_disabled", forwarding, off, "needs a second administrator"),
        ("03:29", "config.changed", forwarding, off, "the key is protected"),
        ("03:34", "export.deleted", EXPORT, (), None),
        ("03:36", "search_history.deleted", searches, (), None),
        ("03:38", "notification.deleted", warning, (), None),
        ("03:41", "audit.events_deleted", log, (), "there is no such permission"),
    ):
        yield told(
            teller.at(Day.THURSDAY, clock),
            INSIDE,
            action,
            target,
            changes=changes,
            outcome="denied" if refusal else "success",
            reason=refusal,
        )


def refunds(teller: Teller) -> Iterator[Moment]:
    """A new payout account, a warning switched off, and refunds to it until a limit says no."""
    shop = next(shop for shop in SHOPS if shop.tenant == INTRUDER.payout_tenant)
    told = partial(teller.tell, tenant=shop.tenant, trace=teller.trace())
    at = partial(teller.at, Day.FRIDAY)
    account = thing("payout_account", INTRUDER.payout_account_id)
    yield told(at("01:47"), INSIDE, "session.resumed", thing("session", INTRUDER.session_id))
    yield told(at("01:55"), INSIDE, "payout_account.created", account, shop.target())
    yield told(
        at("01:58"),
        INSIDE,
        "notification_rule.deleted",
        thing("notification_rule", "nrl_31", "payout account changed"),
        shop.target(),
    )
    tries = [*zip(INTRUDER.refund_ids, INTRUDER.refund_amounts_cents, strict=True)]
    for turn, (refund, cents) in enumerate([*tries, ("rf_70420", 49_800)]):
        over = turn == len(tries)
        yield told(
            at(f"02:{5 + 5 * turn:02}"),
            INSIDE,
            "refund.created",
            thing("refund", refund),
            account,
            outcome="denied" if over else "success",
            reason="the shop's daily refunds end at 4,500.00 EUR" if over else "goodwill",
            changes=[
                change("/refunded_cents", 0, cents),
                change("/destination", "original_card", INTRUDER.payout_account_id),
            ],
            currency="EUR",
        )
    yield told(at("02:58"), INSIDE, "login_history.deleted", ME)
