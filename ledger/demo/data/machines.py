"""The scheduled services: the hourly settlement, the nightly backups and reports."""

from collections.abc import Iterator

from ledger.demo.data.company import COMPANY, MACHINE, SHOPS
from ledger.demo.data.event_maker import Day, Details, EventMaker, TimedEvent, thing

BACKUP, REPORTS = MACHINE["svc_backup"].caller(), MACHINE["svc_reports"].caller()
SETTLEMENT = MACHINE["svc_settlement"].caller()
# A run that failed, and the next one, whose result nobody knows: not the intruder's work.
BAD_RUNS = {
    (Day.WEDNESDAY, 14): ("failure", "the bank's side closed the connection"),
    (Day.WEDNESDAY, 15): ("unknown", "no answer within 600 s"),
}
NIGHTLY = {"reason": "nightly schedule"}


def machines(maker: EventMaker) -> Iterator[TimedEvent]:
    for day in Day:
        for hour in range(24):
            yield run_settlement(maker, day, hour)
        yield maker.event(
            maker.at(day, "02:30"),
            BACKUP,
            "backup.created",
            *(thing("backup", f"bak_{100 + day}"), thing("host", "host-db-1")),
            tenant=COMPANY,
            bytes=maker.rng.randrange(41_000_000_000, 42_000_000_000),
            **NIGHTLY,
        )
        for shop in SHOPS:
            report = thing("report", f"rep_{shop.tenant}", f"daily report of {shop.name}")
            at, records = maker.at(day, "03:05"), maker.rng.randrange(40, 400)
            counts: Details = {"tenant": shop.tenant, "format": "csv", "records": records}
            yield maker.event(at, REPORTS, "report.exported", report, **counts, **NIGHTLY)
        backup = thing("backup", f"bak_{70 + day}")
        expired: Details = {"reason": "older than 30 days", "/status": ("kept", "deleted")}
        at = maker.at(day, "04:00")
        yield maker.event(at, BACKUP, "backup.expired", backup, tenant=COMPANY, **expired)


def run_settlement(maker: EventMaker, day: Day, hour: int) -> TimedEvent:
    outcome, reason = BAD_RUNS.get((day, hour), ("success", "hourly schedule"))
    return maker.event(
        maker.at(day, f"{hour:02}:05"),
        SETTLEMENT,
        "job.completed",
        thing("job", "job_settlement", "hourly settlement"),
        outcome=outcome,
        reason=reason,
        tenant=COMPANY,
        duration_ms=maker.rng.randrange(900, 9000),
        payouts=maker.rng.randrange(3, 40),
    )
