"""The staff's ordinary week: each person logs in, does some tasks of the team, and goes home."""

from collections.abc import Iterator
from functools import partial

from ledger.demo.data.company import COMPANY, INTRUDER, STAFF, Person
from ledger.demo.data.event_maker import MINUTE_US, WORKDAYS, Day, EventMaker, TimedEvent, thing
from ledger.demo.data.tasks import TASKS, Shift

TASKS_A_DAY, TASKS_ON_CALL = range(6, 11), range(2, 5)
ON_CALL = {Day.SATURDAY: ("u_102", "u_110", "u_119"), Day.SUNDAY: ("u_102", "u_120")}


def staff(maker: EventMaker) -> Iterator[TimedEvent]:
    """The days of all people, but for the Friday of `u_117`, which is part of the response."""
    for person in STAFF:
        for day in Day:
            locked_out = person.id == INTRUDER.actor_id and day == Day.FRIDAY
            if (day in WORKDAYS and not locked_out) or person.id in ON_CALL.get(day, ()):
                yield from working_day(maker, person, day)


def working_day(maker: EventMaker, person: Person, day: Day) -> Iterator[TimedEvent]:
    arrives = maker.at(day, person.starts) + maker.rng.randrange(-15, 20) * MINUTE_US
    leaves = arrives + person.hours * 60 * MINUTE_US
    shift = Shift(maker, person, person.caller(maker, day))
    yield from log_in(shift, arrives)
    tasks = TASKS[person.team]
    count = maker.rng.choice(TASKS_A_DAY if day in WORKDAYS else TASKS_ON_CALL)
    for task in maker.rng.choices(list(tasks), list(tasks.values()), k=count):
        for timed in task(shift, work_time(maker, arrives, leaves)):
            leaves = max(leaves, timed.at_unix_us)
            yield timed
    if maker.chance(0.7):
        yield shift.event(maker.later(leaves, seconds=600), "session.ended")


def work_time(maker: EventMaker, arrives: int, leaves: int) -> int:
    """A time of the shift; half of what would fall into the middle hour comes after lunch."""
    at = maker.rng.randrange(arrives + 5 * MINUTE_US, leaves)
    lunch = (arrives + leaves) // 2
    is_after_lunch = abs(at - lunch) < 30 * MINUTE_US and maker.chance(0.5)
    return at + 60 * MINUTE_US if is_after_lunch else at


def log_in(shift: Shift, at: int) -> Iterator[TimedEvent]:
    """Password, perhaps at the second try, then the second factor, unless the person is exempt."""
    maker, me, gate = shift.maker, thing("user", shift.person.id), shift.caller.via("gate")
    event = partial(maker.event, tenant=COMPANY, trace=maker.trace())
    door = gate.without_session()
    if maker.chance(0.12):
        yield event(at, door, "login.failed", me, outcome="failure", reason="wrong password")
        at = maker.later(at, seconds=40)
        if maker.chance(0.25):
            yield event(at, door, "password.reset_requested", me)
            at = maker.later(at, seconds=240)
            yield event(at, door, "password.changed", me)
            at = maker.later(at, seconds=30)
    is_exempt = shift.person.id == INTRUDER.actor_id
    if not is_exempt:
        device = thing("mfa_device", f"dev_{shift.person.number - 80}")
        yield event(at, door, "mfa.verified", me, device)
        at = maker.later(at, seconds=10)
    mfa = "exempt" if is_exempt else "verified"
    yield event(at, gate, "login.succeeded", me, method="password", mfa=mfa)
