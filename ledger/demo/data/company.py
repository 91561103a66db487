"""The invented company Tillwhistle and the facts of its bad week, read from `bad_week.toml`."""

import tomllib
from importlib import resources
from typing import Any, Final

import msgspec

from ledger.demo.data.event_maker import Caller, Day, EventMaker, Thing, thing

COMPANY: Final = "tillwhistle"


class Person(msgspec.Struct, array_like=True, frozen=True):
    """An employee: on the days in `remote` ("Tue Wed") on the VPN, on the others in the office."""

    number: int
    title: str
    team: str
    starts: str
    hours: int
    remote: str

    @property
    def id(self) -> str:
        return f"u_{self.number}"

    def principal(self) -> dict[str, str]:
        return thing("user", self.id, self.title)

    def ip(self, day: Day) -> str:
        if (self.number, day.short) == (WEEK.trip.person, WEEK.trip.day):
            return WEEK.trip.ip
        network = "2001:db8:40::" if day.short in self.remote else "192.0.2."
        return f"{network}{self.number}"

    def caller(self, maker: EventMaker, day: Day, *, service: str = "admin-web") -> Caller:
        return Caller(
            self.principal() | {"session": maker.session(self.id, day)},
            {"ip": self.ip(day), "user_agent": browser(self.number), "service": service},
        )


class Shop(msgspec.Struct, array_like=True, frozen=True):
    """A customer of the company, its people and the address that they share."""

    tenant: str
    name: str
    people: tuple[str, ...]
    ip: str
    opens: str

    def target(self) -> dict[str, str]:
        return thing("shop", self.tenant, self.name)


class Machine(msgspec.Struct, array_like=True, frozen=True):
    """A service that acts on its own schedule."""

    id: str
    name: str
    host: int
    version: str

    def caller(self) -> Caller:
        agent = f"tillwhistle-{self.id.removeprefix('svc_')}/{self.version} (python)"
        return Caller(
            thing("service", self.id, self.name),
            {"ip": f"2001:db8:10::{self.host}", "service": "scheduler", "user_agent": agent},
        )


class Intruder(msgspec.Struct, frozen=True):
    """The intruder in the log: its account and session, its addresses, and what it created."""

    actor_id: str
    session_id: str
    token_id: str
    spray_network: str
    entry_ip: str
    pivot_ip: str
    guessed_only_id: str
    impersonated_id: str
    reused_ticket: str
    export_id: str
    exported_records: int
    payout_account_id: str
    refund_amounts_cents: tuple[int, ...]
    discovered_by_id: str
    incident_id: str
    key_actions: tuple[str, ...]


class Question(msgspec.Struct, array_like=True, frozen=True):
    """A responder's question, the query that answers it, and how many events the answer has."""

    asks: str
    query: str
    finds: int


class Row(msgspec.Struct, array_like=True, frozen=True):
    """A line of a scene, such as "Thu 03:12": a caller does an action to targets."""

    time: str
    caller: str
    action: str
    targets: tuple[str, ...]
    details: dict[str, Any] = {}

    @property
    def day(self) -> Day:
        return DAYS[self.time[:3]]

    @property
    def clock(self) -> str:
        return self.time[4:]


class Scene(msgspec.Struct, frozen=True):
    """Events in order, the details that all have, and whether they share a trace id."""

    rows: tuple[Row, ...]
    common: dict[str, Any]
    traced: bool = False


class Trip(msgspec.Struct, frozen=True):
    """The address of one person on one day."""

    person: int
    day: str
    ip: str


class Week(msgspec.Struct, frozen=True):
    """All of `bad_week.toml`, which explains its members."""

    staff: tuple[Person, ...]
    shops: tuple[Shop, ...]
    browsers: tuple[str, ...]
    machines: tuple[Machine, ...]
    questions: tuple[Question, ...]
    trip: Trip
    intruder: Intruder
    callers: dict[str, Caller]
    scenes: dict[str, Scene]


def _read_week() -> Week:
    text = resources.files(__package__).joinpath("bad_week.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Week)


WEEK: Final = _read_week()
STAFF, SHOPS, INTRUDER, QUESTIONS = WEEK.staff, WEEK.shops, WEEK.intruder, WEEK.questions
PERSON: Final = {person.id: person for person in STAFF}
SHOP: Final = {shop.tenant: shop for shop in SHOPS}
MACHINE: Final = {machine.id: machine for machine in WEEK.machines}
DAYS: Final = {day.short: day for day in Day}


def browser(number: int) -> str:
    """The user agent of the person with this number."""
    return WEEK.browsers[number % len(WEEK.browsers)]


def caller(maker: EventMaker, text: str, day: Day) -> Caller:
    """The caller of a row; `bad_week.toml` describes the text."""
    name, _, service = text.partition(" via ")
    name, _, other_day = name.partition(" on ")
    if name in PERSON:
        day = DAYS.get(other_day, day)
        return PERSON[name].caller(maker, day, service=service or "admin-web")
    found = MACHINE[name].caller() if name in MACHINE else WEEK.callers[name]
    return found.via(service) if service else found


def target(text: str) -> Thing:
    """The target of a row: a person's id, or kind, id and name."""
    if text in PERSON:
        return PERSON[text].principal()
    kind, id_, *name = text.split(" ", 2)
    return SHOP[id_].target() if kind == "shop" else thing(kind, id_, *name)
