"""Three nights: the guessed password, the export, and the refunds."""

from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network

from ledger.demo.data.company import COMPANY, PERSON, SHOPS, WATCH
from ledger.demo.data.event_maker import (
    SECOND_US,
    Caller,
    Day,
    Details,
    EventMaker,
    Row,
    TimedEvent,
    thing,
)
from ledger.demo.data.facts import INTRUDER

VICTIM = PERSON[INTRUDER.actor_id]
ADMIN = PERSON[INTRUDER.impersonated_id]
ME = VICTIM.principal()
PYTHON = "python-requests/2.31.0"

LOGIN = Caller(
    ME | {"session": INTRUDER.session_id},
    {
        "ip": INTRUDER.entry_ip,
        "user_agent": "Mozilla/5.0 (Windows NT 6.1; rv:102.0) Gecko/20100101 Firefox/102.0",
        "service": "gate",
    },
)
INSIDE = Caller(
    LOGIN.actor,
    {
        "ip": INTRUDER.pivot_ip,
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/109.0.0.0",
        "service": "admin-web",
    },
)
# The token needs no session, so only the address ties its calls to the rest.
SCRIPT = Caller(
    ME | {"credential": INTRUDER.token_id},
    {"ip": INTRUDER.pivot_ip, "user_agent": PYTHON, "service": "public-api"},
)
AS_ADMIN = INSIDE.on_behalf_of(ADMIN.principal())

SESSION = thing("session", INTRUDER.session_id)
DEVICE = thing("mfa_device", INTRUDER.mfa_device_id)
TOKEN = thing("token", INTRUDER.token_id, "reporting-sync")
EXPORT = thing("export", INTRUDER.export_id, "customers of all shops")
ACCOUNT = thing("payout_account", INTRUDER.payout_account_id)
REFUNDS = tuple(thing("refund", id_) for id_ in INTRUDER.refund_ids)
AUDIT_LOG = thing("audit_log", "witnessed-ledger")
TICKET = f"ticket {INTRUDER.reused_ticket}"


def intrusion(maker: EventMaker) -> Iterator[TimedEvent]:
    exempted = {
        "reason": f"{TICKET}: phone broken, the new one comes on Friday",
        "/mfa": ("required", "exempt"),
    }
    admin = ADMIN.caller(maker, Day.MONDAY)
    in_company = partial(maker.events, tenant=COMPANY)
    yield from in_company(Day.MONDAY, [Row("09:20", admin, "mfa.exempted", (ME,), exempted)])
    yield from guess_passwords(maker)
    yield from in_company(Day.TUESDAY, ALERT_RAISED)
    yield from in_company(Day.WEDNESDAY, ALERT_CLOSED)
    trace = maker.trace()
    yield from in_company(Day.TUESDAY, FIRST_LOGIN, trace=trace)
    yield from in_company(Day.WEDNESDAY, SECOND_ADDRESS, trace=trace)
    yield from in_company(Day.THURSDAY, PROMOTION, trace=maker.trace())
    yield from read_customers(maker)
    yield from in_company(Day.THURSDAY, EXPORTS)
    yield from in_company(Day.THURSDAY, TRACES_DELETED, trace=maker.trace())
    yield from maker.events(
        Day.FRIDAY, refund_rows(), tenant=INTRUDER.payout_tenant, trace=maker.trace()
    )


ROUNDS = ("22:41", "23:01", "23:21", "23:41")
HIT, STOPPED_BY_MFA = (3, INTRUDER.actor_id), (1, INTRUDER.guessed_only_id)
NO_SUCH_USERS = ("admin", "info", "support", "test")
SECONDS_BETWEEN_GUESSES = 37


def guess_passwords(maker: EventMaker) -> Iterator[TimedEvent]:
    """One guess an account and round, from an address that changes; after a right guess no more."""
    addresses = list(IPv4Network(INTRUDER.spray_network))[40:72]
    accounts = [*PERSON, *NO_SUCH_USERS]
    for number, clock in enumerate(ROUNDS):
        maker.rng.shuffle(accounts)
        for turn, account in enumerate(accounts):
            is_hit = (number, account) in (HIT, STOPPED_BY_MFA)
            if is_hit or (account == INTRUDER.guessed_only_id and number > STOPPED_BY_MFA[0]):
                continue
            at = maker.at(Day.TUESDAY, clock) + turn * SECONDS_BETWEEN_GUESSES * SECOND_US
            yield maker.event(
                at,
                guesser(maker, maker.rng.choice(addresses), account),
                "login.failed",
                thing("user", account),
                outcome="failure",
                reason="wrong password" if account in PERSON else "no such user",
                tenant=COMPANY,
            )
    stopped = guesser(maker, addresses[7], INTRUDER.guessed_only_id)
    denied = {"outcome": "denied", "reason": "no second factor within 60 s", "tenant": COMPANY}
    target = thing("user", INTRUDER.guessed_only_id)
    row = Row("23:09", stopped, "login.mfa_failed", (target,), denied)
    yield from maker.events(Day.TUESDAY, [row])


def guesser(maker: EventMaker, address: IPv4Address, account: str) -> Caller:
    port = maker.rng.randrange(32_768, 61_000)
    return Caller(
        thing("user" if account in PERSON else "unknown", account),
        {"ip": str(address), "port": port, "user_agent": PYTHON, "service": "gate"},
    )


WATCHER, ALERT = WATCH.caller(), (thing("alert", "alr_731", "many failed logins, many accounts"),)
RAISED = {"reason": "more than 50 failed logins in an hour", "severity": "low"}
CLOSED = {"outcome": "unknown", "reason": "nobody answered within 6 h"}
ALERT_RAISED = (Row("23:18", WATCHER, "alert.raised", ALERT, RAISED),)
ALERT_CLOSED = (Row("05:18", WATCHER, "alert.closed", ALERT, CLOSED),)

# In at 23:47, from another address at 00:04, and by half past two more ways to come back.
FIRST_LOGIN = (
    Row("23:47", LOGIN, "login.succeeded", (ME,), {"method": "password", "mfa": "exempt"}),
    Row("23:49", LOGIN.via("admin-web"), "profile.viewed", (ME,)),
)
SCOPES: Details = {"/scopes": ([], ["customers:read"])}
IMPERSONATION = thing("document", "doc_112", "how we impersonate")
LIMITS = thing("document", "doc_118", "refunds and limits")
SECOND_ADDRESS = (
    Row("00:04", INSIDE, "session.resumed", (ME, SESSION)),
    Row("00:11", INSIDE, "mfa.device_added", (ME, DEVICE)),
    Row("00:19", INSIDE, "token.created", (ME, TOKEN), SCOPES),
    Row("00:26", INSIDE, "document.viewed", (ME, IMPERSONATION)),
    Row("00:29", INSIDE, "document.viewed", (ME, LIMITS)),
    Row("00:33", INSIDE, "user.listed", (ME, thing("directory", "staff"))),
)

# Denied to the user, granted to the administrator whom the user impersonates.
TO_FINANCE = {"/role": ("support", "finance_admin")}
REFUSED = {"outcome": "denied", "reason": "only an administrator changes roles"}
START, END = "support.impersonation_started", "support.impersonation_ended"
PROMOTION = (
    Row("01:41", INSIDE, "session.resumed", (SESSION,)),
    Row("01:52", INSIDE, "user.role_changed", (ME,), {**TO_FINANCE, **REFUSED}),
    Row("01:58", INSIDE, START, (ADMIN.principal(),), {"reason": TICKET}),
    Row("02:09", AS_ADMIN, "user.role_changed", (ME,), {**TO_FINANCE, "reason": TICKET}),
    Row("02:11", INSIDE, END, (ADMIN.principal(),), {"reason": TICKET}),
)

READS = 36


def read_customers(maker: EventMaker) -> Iterator[TimedEvent]:
    """By script: search, and read some records to see what is in them."""
    start = maker.at(Day.THURSDAY, "02:16")
    for number in range(READS):
        at = start + number * 80 * SECOND_US + maker.rng.randrange(60 * SECOND_US)
        shop = SHOPS[number % len(SHOPS)]
        event = partial(maker.event, at, SCRIPT, tenant=shop.tenant)
        if number % 3 == 0:
            results = maker.rng.randrange(4000, 12_000)
            yield event("customer.searched", shop.target(), query="*", results=results)
        else:
            yield event("customer.viewed", thing("customer", maker.number("cus", 4000, 4900)))


ALL = {"format": "csv", "records": INTRUDER.exported_records}
EXPORTS = (
    Row("03:12", SCRIPT, "customer.exported", (EXPORT, *(s.target() for s in SHOPS)), ALL),
    Row("03:14", SCRIPT, "export.downloaded", (EXPORT,), {"bytes": 9_114_622}),
)

# What it deletes is gone from the applications; that it was deleted stays in the log.
FORWARDING, OFF = thing("config", "audit.forwarding"), {"/audit/forwarding": (True, False)}
WARNING = thing("notification", "ntf_5512", "new device added")
SEARCHES = thing("search_history", VICTIM.id)


def denied(reason: str) -> dict[str, str]:
    return {"outcome": "denied", "reason": reason}


SECOND_ADMIN, PROTECTED = denied("needs a second administrator"), denied("the key is protected")
NO_PERMISSION = denied("there is no such permission")
TRACES_DELETED = (
    Row("03:27", INSIDE, "audit.forwarding_disabled", (FORWARDING,), {**OFF, **SECOND_ADMIN}),
    Row("03:29", INSIDE, "config.changed", (FORWARDING,), {**OFF, **PROTECTED}),
    Row("03:34", INSIDE, "export.deleted", (EXPORT,)),
    Row("03:36", INSIDE, "search_history.deleted", (SEARCHES,)),
    Row("03:38", INSIDE, "notification.deleted", (WARNING,)),
    Row("03:41", INSIDE, "audit.events_deleted", (AUDIT_LOG,), NO_PERMISSION),
)


def refund_rows() -> Iterator[Row]:
    """A new payout account, a warning switched off, and refunds to it until a limit denies one."""
    shop = next(shop for shop in SHOPS if shop.tenant == INTRUDER.payout_tenant).target()
    rule = thing("notification_rule", "nrl_31", "payout account changed")
    yield Row("01:47", INSIDE, "session.resumed", (SESSION,))
    yield Row("01:55", INSIDE, "payout_account.created", (ACCOUNT, shop))
    yield Row("01:58", INSIDE, "notification_rule.deleted", (rule, shop))
    amounts = (*INTRUDER.refund_amounts_cents, 49_800)
    for turn, cents in enumerate(amounts):
        is_denied = turn == len(REFUNDS)
        refund = thing("refund", "rf_70420") if is_denied else REFUNDS[turn]
        details = {
            **(denied(OVER_THE_LIMIT) if is_denied else {"reason": "goodwill"}),
            "/refunded_cents": (0, cents),
            "/destination": ("original_card", INTRUDER.payout_account_id),
            "currency": "EUR",
        }
        yield Row(f"02:{5 + 5 * turn:02}", INSIDE, "refund.created", (refund, ACCOUNT), details)
    yield Row("02:58", INSIDE, "login_history.deleted", (ME,))


OVER_THE_LIMIT = "the shop's daily refunds end at 4,500.00 EUR"
