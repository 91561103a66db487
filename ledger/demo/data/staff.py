"""The staff's ordinary week: people come in, prove who they are, do their chores and go home."""

from collections.abc import Iterator

from ledger.demo.data.chores import CHORES, Shift
from ledger.demo.data.company import COMPANY, STAFF, Person
from ledger.demo.data.facts import INTRUDER
from ledger.demo.data.telling import MINUTE_US, WORKDAYS, Day, Moment, Teller, thing

CHORES_A_DAY, CHORES_ON_CALL = range(6, 11), range(2, 5)
ON_CALL = {Day.SATURDAY: ("u_102", "u_110", "u_119"), Day.SUNDAY: ("u_102", "u_120")}


def staff(teller: Teller) -> Iterator[Moment]:
    """Everybody's days; the Friday of `u_117` is told with the response."""
    for person in STAFF:
        for day in Day:
            locked_out = person.id == INTRUDER.actor_id and day == Day.FRIDAY
            if (day in WORKDAYS and not locked_out) or person.id in ON_CALL.get(day, ()):
                yield from working_day(teller, person, day)


def working_day(teller: Teller, person: Person, day: Day) -> Iterator[Moment]:
    arrives = teller.at(day, person.starts) + teller.rng.randrange(-15, 20) * MINUTE_US
    leaves = arrives + person.hours * 60 * MINUTE_US
    shift = Shift(teller, person, person.presence(teller, day))
    yield from come_in(shift, arrives)
    chores = CHORES[person.team]
    count = teller.rng.choice(CHORES_A_DAY if day in WORKDAYS else CHORES_ON_CALL)
    for chore in teller.rng.choices(list(chores), list(chores.values()), k=count):
        for moment in chore(shift, work_time(teller, arrives, leaves)):
            leaves = max(leaves, moment.at_unix_us)
            yield moment
    if teller.chance(0.7):
        yield shift.tell(teller.later(leaves, seconds=600), "session.ended", tenant=COMPANY)


def work_time(teller: Teller, arrives: int, leaves: int) -> int:
    """Some time of the shift; half of what would fall into the middle hour comes after lunch."""
    at = teller.rng.randrange(arrives + 5 * MINUTE_US, leaves)
    lunch = (arrives + leaves) // 2
    if abs(at - lunch) < 30 * MINUTE_US and teller.chance(0.5):
        at += 60 * MINUTE_US
    return at


def come_in(shift: Shift, at: int) -> Iterator[Moment]:
    """Password, perhaps at the second try, then the second factor, unless one is exempt."""
    teller, me = shift.teller, thing("user", shift.person.id)
    gate, trace = shift.who.through("gate"), teller.trace()
    door = gate.signed_out()
    if teller.chance(0.12):
        yield teller.tell(
            at,
            door,
            "login.failed",
            me,
            outcome="failure",
            reason="wrong password",
            tenant=COMPANY,
            trace=trace,
        )
        at = teller.later(at, seconds=40)
        if teller.chance(0.25):
            yield teller.tell(at, door, "password.reset_requested", me, tenant=COMPANY, trace=trace)
            at = teller.later(at, seconds=240)
            yield teller.tell(at, door, "password.changed", me, tenant=COMPANY, trace=trace)
            at = teller.later(at, seconds=30)
    exempt = shift.person.id == INTRUDER.actor_id
    if not exempt:
        device = thing("mfa_device", f"dev_{shift.person.number - 80}")
        yield teller.tell(at, door, "mfa.verified", me, device, tenant=COMPANY, trace=trace)
        at = teller.later(at, seconds=10)
    yield teller.tell(
        at,
        gate,
        "login.succeeded",
        me,
        tenant=COMPANY,
        trace=trace,
        method="password",
        mfa="exempt" if exempt else "verified",
    )
