"""What runs by itself: the hourly settlement, the nightly backups and reports."""

from collections.abc import Iterator

from ledger.demo.data.company import BACKUP, COMPANY, REPORTS, SETTLEMENT, SHOPS
from ledger.demo.data.telling import Day, Moment, Teller, change, thing

HOURS = range(24)
# The run that failed, and the one after it, of which nobody heard; nothing to do with the intruder.
BAD_RUNS = {(Day.WEDNESDAY, 14): "failure", (Day.WEDNESDAY, 15): "unknown"}


def machines(teller: Teller) -> Iterator[Moment]:
    for day in Day:
        for hour in HOURS:
            yield settle(teller, day, hour)
        yield back_up(teller, day)
        for shop in SHOPS:
            yield teller.tell(
                teller.at(day, "03:05"),
                REPORTS.presence(),
                "report.exported",
                thing("report", f"rep_{shop.tenant}", f"daily report of {shop.name}"),
                reason="nightly schedule",
                tenant=shop.tenant,
                format="csv",
                records=teller.rng.randrange(40, 400),
            )
        yield teller.tell(
            teller.at(day, "04:00"),
            BACKUP.presence(),
            "backup.expired",
            thing("backup", f"bak_{70 + day}"),
            reason="older than 30 days",
            tenant=COMPANY,
            changes=[change("/status", "kept", "deleted")],
        )


def settle(teller: Teller, day: Day, hour: int) -> Moment:
    outcome = BAD_RUNS.get((day, hour), "success")
    return teller.tell(
        teller.at(day, f"{hour:02}:05"),
        SETTLEMENT.presence(),
        "job.completed",
        thing("job", "job_settlement", "hourly settlement"),
        outcome=outcome,
        reason={
            "failure": "the bank's side closed the connection",
            "unknown": "no answer within 600 s",
        }.get(outcome, "hourly schedule"),
        tenant=COMPANY,
        duration_ms=teller.rng.randrange(900, 9000),
        payouts=teller.rng.randrange(3, 40),
    )


def back_up(teller: Teller, day: Day) -> Moment:
    return teller.tell(
        teller.at(day, "02:30"),
        BACKUP.presence(),
        "backup.created",
        thing("backup", f"bak_{100 + day}"),
        thing("host", "host-db-1"),
        reason="nightly schedule",
        tenant=COMPANY,
        bytes=teller.rng.randrange(41_000_000_000, 42_000_000_000),
    )
