"""Three nights of an intruder, and the response: the scenes of `bad_week.toml`, and what is drawn.

Drawn are the guessed passwords, the customers that a script reads, and the new passwords.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from itertools import chain

from ledger.demo.data.company import (
    COMPANY,
    INTRUDER,
    PERSON,
    SHOPS,
    STAFF,
    WEEK,
    Row,
    caller,
    target,
)
from ledger.demo.data.event_maker import SECOND_US, Caller, Day, EventMaker, TimedEvent, thing

PYTHON = WEEK.callers["script"].source["user_agent"]


def intrusion(maker: EventMaker) -> Iterator[TimedEvent]:
    """From the exemption on Monday to the refunds on Friday night."""
    yield from play(maker, "exemption")
    yield from guess_passwords(maker)
    for scene in ("alert", "first_night", "promotion"):
        yield from play(maker, scene)
    yield from read_customers(maker)
    for scene in ("export", "traces", "refunds"):
        yield from play(maker, scene)


def response(maker: EventMaker) -> Iterator[TimedEvent]:
    """From Friday morning on: the discovery, the lock-out, the clean-up."""
    for scene in ("discovery", "investigation", "lock_out", "rejected", "recalls", "evidence"):
        yield from play(maker, scene)
    yield from play(maker, "new_passwords", first=new_passwords(maker))
    for scene in ("fixes", "notices", "weekend"):
        yield from play(maker, scene)


def play(maker: EventMaker, name: str, *, first: Iterable[Row] = ()) -> Iterator[TimedEvent]:
    """Make the events of the rows in `first`, then of the scene's own rows."""
    scene = WEEK.scenes[name]
    common = scene.common | ({"trace": maker.trace()} if scene.traced else {})
    for row in chain(first, scene.rows):
        yield maker.event(
            maker.at(row.day, row.clock),
            caller(maker, row.caller, row.day),
            row.action,
            *map(target, row.targets),
            **common | row.details,
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
    yield maker.event(
        maker.at(Day.TUESDAY, "23:09"),
        stopped,
        "login.mfa_failed",
        thing("user", INTRUDER.guessed_only_id),
        outcome="denied",
        reason="no second factor within 60 s",
        tenant=COMPANY,
    )


def guesser(maker: EventMaker, address: IPv4Address, account: str) -> Caller:
    port = maker.rng.randrange(32_768, 61_000)
    return Caller(
        thing("user" if account in PERSON else "unknown", account),
        {"ip": str(address), "port": port, "user_agent": PYTHON, "service": "gate"},
    )


def read_customers(maker: EventMaker) -> Iterator[TimedEvent]:
    """By script: 36 times, search the customers of a shop or read a record."""
    start = maker.at(Day.THURSDAY, "02:16")
    for number in range(36):
        at = start + number * 80 * SECOND_US + maker.rng.randrange(60 * SECOND_US)
        shop = SHOPS[number % len(SHOPS)]
        event = partial(maker.event, at, WEEK.callers["script"], tenant=shop.tenant)
        if number % 3 == 0:
            results = maker.rng.randrange(4000, 12_000)
            yield event("customer.searched", shop.target(), query="*", results=results)
        else:
            yield event("customer.viewed", thing("customer", maker.number("cus", 4000, 4900)))


def new_passwords(maker: EventMaker) -> Iterator[Row]:
    """At eleven IT expires all passwords. `u_117` chooses hers later, at the IT desk."""
    expired = {"/password": ("current", "expired")}
    for person in STAFF:
        yield Row("Fri 11:00", "u_104", "password.reset_required", (person.id,), expired)
        is_owner = person.id == INTRUDER.actor_id
        clock = "15:10" if is_owner else f"13:{maker.rng.randrange(5, 60):02}"
        yield Row(f"Fri {clock}", f"{person.id} via gate", "password.changed", (person.id,))
