"""The audit events of a small company's bad week, for the demo and for tests.

    event_maker  times, randomness, and what an event is made of
    company      people, shops, machines, addresses
    facts        what the intruder did, and the questions that find it
    staff tasks  the ordinary week of the staff, and the tasks of each team
    shops machines
    intrusion response

Tillwhistle is invented: twenty-five people (`u_101` to `u_125`) who run payment pages for six
shops. Its office is 192.0.2.0/24 and its VPN 2001:db8:40::/64; there, an address ends in its
owner's number, so `u_117` works at 192.0.2.117. The machines live in 2001:db8:10::/64 and the
shops' own people come from 198.51.100.0/26 and 2001:db8:77::/48. Clocks show UTC.

*Monday.* At 09:20 the IT administrator, `u_104`, exempts the support agent `u_117` from the
second factor, because her phone is broken: ticket IT-482. Nobody thinks of it again.

*Tuesday night.* From 22:41 somebody tries common passwords on every account, in four slow rounds,
from 203.0.113.0/24. An alert is raised at 23:18 and closes itself unread. Two guesses are right.
At 23:09 that of `u_112` is stopped by the second factor. At 23:47 that of `u_117`, from
203.0.113.58, is not.

*Wednesday.* At 00:04 the same session, `s_7f3a11c4`, comes from 198.51.100.77, where the intruder
stays. At 00:11 it adds an MFA device, `dev_66`, and at 00:19 it creates an API token, `tok_8841`,
named "reporting-sync". By day the real `u_117` works at her desk and notices nothing.

*Thursday, before dawn.* At 01:52 the session tries to promote itself and is denied. At 01:58 it
uses the support desk's impersonation, meant for the shops' people, on `u_104`, and at 02:09, on
behalf of `u_104` and with the old ticket as the reason, makes `u_117` a `finance_admin`. The
token searches customers and reads their records until, at 03:12, in the shadow of the nightly
reports, it exports 48,211 customers as `exp_3120` and fetches the file. At 03:27 and 03:29 it
tries to turn off the forwarding of the audit log and is denied twice, then deletes the traces
within its reach, and at 03:41 is denied the audit log itself.

*Friday, before dawn.* At 01:55 the session adds a payout account, `pa_9907`, to the shop
`tin-comet-toys`, and from 02:05 sends nine refunds there, 4,410.00 EUR in all, each just under
the 500.00 that need a second pair of eyes. The tenth is denied.

*Friday morning.* At 08:52 `u_108`, who reconciles the settlements, wonders at the refunds and at
09:07 opens SEC-31. `u_102` follows the payout account to the actor, the actor to the address, the
address to the session and the session to the network, and declares `inc_7` at 09:21. By 09:27 the
account is locked and its session, token and device are gone; the intruder knocks until 09:38. Six
refunds are recalled, three are lost. Everybody gets a new password, impersonation of colleagues
and MFA exemptions end, the shops are told, and on Sunday at 16:40 the incident is closed.

Around it goes the ordinary week, with its own odd things: mistyped passwords, forgotten ones, a
trip abroad, a failed settlement run.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

from ledger.demo.data.event_maker import DAY_US, EventMaker, TimedEvent
from ledger.demo.data.facts import INTRUDER, QUESTIONS, Intruder, Question
from ledger.demo.data.intrusion import intrusion
from ledger.demo.data.machines import machines
from ledger.demo.data.response import response
from ledger.demo.data.shops import shops
from ledger.demo.data.staff import staff
from ledger_core.event.canonical import format_time
from ledger_core.event.ids import format_uuid7

__all__ = ["INTRUDER", "QUESTIONS", "Intruder", "Question", "bad_week", "week_before"]

WEEK_US = 7 * DAY_US
# 1970 began on a Thursday.
FIRST_MONDAY_US = 4 * DAY_US

SCENES: tuple[Callable[[EventMaker], Iterator[TimedEvent]], ...] = (
    staff,
    shops,
    machines,
    intrusion,
    response,
)


def bad_week(*, start_unix_us: int, seed: int) -> Iterator[dict[str, Any]]:
    """Some 2,700 events in order of time; the same arguments give the same events and ids.

    The seed changes the ordinary week and the seconds; what the text above says holds for each.

    Raises: ValueError when `start_unix_us` is not the start of a Monday in UTC.
    """
    if start_unix_us % WEEK_US != FIRST_MONDAY_US:
        raise ValueError(f"the week starts on a Monday at 00:00 UTC, got {start_unix_us} µs")
    timed_events: list[TimedEvent] = []
    for scene in SCENES:
        maker = EventMaker(start_unix_us=start_unix_us, rng=_generator(seed, scene.__name__))
        timed_events.extend(scene(maker))
    timed_events.sort(key=lambda timed: timed.at_unix_us)
    ids = _generator(seed, "ids")
    return (_with_id_and_time(timed, ids) for timed in timed_events)


def week_before(unix_us: int) -> int:
    """The start of the last whole week, Monday to Sunday in UTC, that is over at `unix_us`."""
    return unix_us - (unix_us - FIRST_MONDAY_US) % WEEK_US - WEEK_US


def _generator(seed: int, scene: str) -> random.Random:
    # Each scene has its own generator, so a line added to one leaves the others as they were.
    return random.Random(f"{seed} {scene}")  # noqa: S311 -- invented events need no secrecy


def _with_id_and_time(timed: TimedEvent, ids: random.Random) -> dict[str, Any]:
    return {
        "id": format_uuid7(unix_ms=timed.at_unix_us // 1000, random=ids.randbytes(10)),
        "time": format_time(timed.at_unix_us),
        **timed.event,
    }
