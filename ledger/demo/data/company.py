"""The invented company Tillwhistle: its people, shops, machines and addresses."""

from dataclasses import dataclass

from ledger.demo.data.event_maker import Caller, Day, EventMaker, thing

COMPANY = "tillwhistle"


@dataclass(frozen=True, slots=True)
class Person:
    """An employee: on the days in `remote` on the VPN, on the others in the office."""

    number: int
    title: str
    team: str
    starts: str = "09:00"
    hours: int = 8
    remote: tuple[Day, ...] = ()

    @property
    def id(self) -> str:
        return f"u_{self.number}"

    def principal(self) -> dict[str, str]:
        return thing("user", self.id, self.title)

    def ip(self, day: Day) -> str:
        if (self.number, day) == TRIP:
            return TRIP_IP
        return f"2001:db8:40::{self.number}" if day in self.remote else f"192.0.2.{self.number}"

    def caller(self, maker: EventMaker, day: Day, *, service: str = "admin-web") -> Caller:
        return Caller(
            self.principal() | {"session": maker.session(self.id, day)},
            {
                "ip": self.ip(day),
                "user_agent": BROWSERS[self.number % len(BROWSERS)],
                "service": service,
            },
        )


@dataclass(frozen=True, slots=True)
class Shop:
    """A customer of the company, its people and the address that they share."""

    tenant: str
    name: str
    people: tuple[str, ...]
    ip: str
    opens: str

    def target(self) -> dict[str, str]:
        return thing("shop", self.tenant, self.name)


@dataclass(frozen=True, slots=True)
class Machine:
    """A service that acts on its own schedule."""

    id: str
    name: str
    host: int
    version: str

    def caller(self) -> Caller:
        return Caller(
            thing("service", self.id, self.name),
            {
                "ip": f"2001:db8:10::{self.host}",
                "service": "scheduler",
                "user_agent": f"tillwhistle-{self.id.removeprefix('svc_')}/{self.version} (python)",
            },
        )


BROWSERS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/137.0.0.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Safari/605.1.15",
)

# The sales trip: an unknown address, but the right second factor. A false lead.
TRIP, TRIP_IP = (121, Day.THURSDAY), "198.51.100.201"

TUESDAYS, FRIDAYS = (Day.TUESDAY,), (Day.FRIDAY,)
MIDWEEK = (Day.TUESDAY, Day.WEDNESDAY, Day.THURSDAY)
AWAY = (Day.MONDAY, Day.TUESDAY, Day.WEDNESDAY, Day.THURSDAY, Day.FRIDAY)

STAFF = (
    Person(101, "managing director", "office", "09:00", 9, TUESDAYS),
    Person(102, "head of engineering", "engineering", "08:30", 9),
    Person(103, "head of support", "support", "09:00", 8),
    Person(104, "IT administrator", "it", "08:15", 8),
    Person(105, "head of finance", "finance", "08:30", 8, TUESDAYS),
    Person(106, "accountant", "finance", "09:00", 6),
    Person(107, "payments clerk", "finance", "09:00", 8, MIDWEEK),
    Person(108, "settlement analyst", "finance", "08:00", 8),
    Person(109, "platform engineer", "engineering", "10:00", 8, AWAY),
    Person(110, "backend engineer", "engineering", "09:30", 8, MIDWEEK),
    Person(111, "backend engineer, payments", "engineering", "09:00", 8),
    Person(112, "frontend engineer", "engineering", "10:00", 8, AWAY),
    Person(113, "data engineer", "engineering", "09:15", 8, FRIDAYS),
    Person(114, "mobile engineer", "engineering", "10:15", 7, MIDWEEK),
    Person(115, "quality engineer", "engineering", "08:30", 8),
    Person(116, "support, early desk", "support", "07:00", 8),
    Person(117, "support, day desk", "support", "09:00", 7),
    Person(118, "support, day desk", "support", "09:30", 8, TUESDAYS),
    Person(119, "support, late desk", "support", "12:00", 8, AWAY),
    Person(120, "support, late desk", "support", "12:30", 8, MIDWEEK),
    Person(121, "sales, new shops", "sales", "09:00", 8),
    Person(122, "sales, existing shops", "sales", "09:30", 8, FRIDAYS),
    Person(123, "marketing", "sales", "09:30", 6, MIDWEEK),
    Person(124, "product manager", "office", "09:00", 8),
    Person(125, "office manager", "office", "08:00", 6),
)
PERSON = {person.id: person for person in STAFF}

SHOPS = (
    Shop("moonjar-honey", "Moonjar Honey", ("m_201", "m_202"), "198.51.100.12", "08:00"),
    Shop("oddsock-wool", "Oddsock Wool", ("m_211", "m_212"), "2001:db8:77:2::9", "09:30"),
    Shop("puddle-boots", "Puddle Boots", ("m_221", "m_222", "m_223"), "198.51.100.21", "09:00"),
    Shop("tin-comet-toys", "Tin Comet Toys", ("m_231", "m_232"), "198.51.100.33", "10:00"),
    Shop(
        "fennel-and-fog", "Fennel & Fog Gärtnerei", ("m_241", "m_242"), "2001:db8:77:5::9", "07:30"
    ),
    Shop("brass-otter-books", "Brass Otter Books", ("m_251", "m_252"), "198.51.100.48", "10:00"),
)

SETTLEMENT = Machine("svc_settlement", "settlement run", 21, "4.12.0")
BACKUP = Machine("svc_backup", "backups", 22, "2.3.1")
REPORTS = Machine("svc_reports", "nightly reports", 23, "1.8.4")
WATCH = Machine("svc_watch", "alerts", 24, "3.0.2")
DEPLOYER = Machine("svc_deployer", "deployments", 25, "6.1.0")
