"""Faults between the hosts of a ledger and its copies, and what they led to.

    python -m tests.faults.networks [--only PART] [--write]

Each case runs on the same programs: entries are acknowledged, the copies that the fault does not
concern must get them while it lasts, and when it is over all must. Then the whole log, the mirror,
the archive, the mirror of logs and what the receiver got are verified. The two cases of a wiped
host are the last ones of the first programs; then others run whose connections lead over toxiproxy.
Exits with 1 when something was lost, a copy answered with what is not the log's, or did not catch
up. `--write` puts the table into docs/reliability.md.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.service.token_admin import make_token
from ledger.sinks.config import KIND as SINKS
from ledger.store.log import LogStore
from ledger_core.tlog.policy import parse_policy
from tests.archive.archiving import BadStore, Reply
from tests.faults.copies import Answers, Copies, Sizes, look_until
from tests.faults.disks import Filler
from tests.faults.hosts import missing_for_hosts, network
from tests.faults.toxics import (
    BACKLOG_EVENTS,
    HOST,
    KINDS,
    ROUTES,
    TO_BUCKET,
    TO_LEDGER,
    Kind,
    begin,
    missing_toxiproxy,
)
from tests.service.check_log import check_log
from tests.service.serving import event

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN: Final = "<!-- measured: networks -->"
END: Final = "<!-- end -->"
HOSTS: Final = ("ledger", "mirror", "bucket")
BATCHES: Final = 5
BATCH_EVENTS: Final = 40
FAULT_S: Final = 3.0
SLOW_KBIT_S: Final = 128
KILLS: Final = 5
ALONE_EVENTS: Final = 20


@dataclass(frozen=True)
class Fault:
    """A fault. The copies of `stops` must be behind when it ends, those of `spares` must not."""

    name: str
    begin: Callable[[Copies], None]
    end: Callable[[Copies], None]
    stops: Sequence[str]
    spares: Sequence[str]


@dataclass(frozen=True)
class Result:
    """A row of the table. `behind`: entries that a copy lacked at the end of the fault."""

    fault: str
    before: Sizes
    acknowledged: int
    behind: str
    wrong: Sequence[str]
    recovered: str
    answers: int
    unverified: int

    @property
    def is_right(self) -> bool:
        """Whether nothing was lost and nothing unverified was answered."""
        return not self.wrong and not self.unverified


def run_case(copies: Copies, fault: Fault, *, seconds: float = FAULT_S) -> Result:
    """Put one fault to the copies, which lasts at least so long.

    Raises: AssertionError when one does not catch up.
    """
    copies.wait_until_all()
    before = copies.sizes()
    answers = [Answers(copies, name) for name in ("mirror", "reader")]
    fault.begin(copies)
    try:
        for _ in range(BATCHES):
            copies.append(BATCH_EVENTS)
            look_until(answers, 0.1)
        size = copies.size
        copies.wait_until(lambda: all(_of(copies.sizes(), each) >= size for each in fault.spares))
        look_until(answers, seconds)
        during = copies.sizes()
    finally:
        started_s = time.monotonic()
        fault.end(copies)
    late = [each for each in fault.stops if _of(during, each) >= size]
    assert not late, f"{fault.name}: no fault for {late}"
    copies.wait_until_all()
    took_s = time.monotonic() - started_s
    look_until(answers, 0.0)
    behind = [f"{each} {size - _of(during, each)}" for each in COPIES if _of(during, each) < size]
    return Result(
        fault.name,
        before,
        size - before.ledger,
        ", ".join(behind) or "none",
        copies.check(),
        f"{took_s:.0f} s",
        sum(each.count for each in answers),
        sum(each.unverified() for each in answers),
    )


COPIES: Final = Sizes._fields[1:]


def _of(sizes: Sizes, name: str) -> int:
    size: int = getattr(sizes, name)
    return size


def _cut(one: str, other: str, *, one_way: bool = False) -> Callable[[Copies], None]:
    return lambda copies: copies.network.cut(one, other, one_way=one_way)


def _mend(one: str, other: str) -> Callable[[Copies], None]:
    return lambda copies: copies.network.mend(one, other)


def _restart_ledger_behind_a_cut(copies: Copies) -> None:
    """The mirror's connections lead to nothing then, and no packet tells it so."""
    copies.network.forget_ended("ledger")
    copies.network.cut("ledger", "mirror")
    copies.kill("ledger")
    copies.start("ledger")


def _slow(one: str, other: str) -> Callable[[Copies], None]:
    return lambda copies: copies.network.slow(one, other, kbit_s=SLOW_KBIT_S)


def _wait_and_mend(one: str, other: str) -> Callable[[Copies], None]:
    def end(copies: Copies) -> None:
        copies.wait_until_all()  # A slow link is slow, and no more.
        copies.network.mend(one, other)

    return end


def _answer(status: int) -> Callable[[Copies], None]:
    def begin(copies: Copies) -> None:
        copies.proxy.fault = lambda _method, _path: Reply(status)

    return begin


def _be_wrong(copies: Copies) -> None:
    copies.proxy.alter = _flip


def _be_old(copies: Copies) -> None:
    old = copies.old_head.encode()
    copies.proxy.alter = lambda path, body: old if path.endswith("/checkpoint") else body


def _be_right(copies: Copies) -> None:
    copies.proxy.fault = lambda _method, _path: None
    copies.proxy.alter = lambda _path, body: body


def _flip(_path: str, body: bytes) -> bytes:
    """Change a bit in the middle."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body


def _fill(copies: Copies) -> None:
    copies.filler = Filler(copies.mirror_directory)
    copies.filler.fill()


def _free(copies: Copies) -> None:
    assert copies.filler is not None
    copies.filler.free()


def _kill_mirror(copies: Copies) -> None:
    rng = random.Random(KILLS)
    for _ in range(KILLS):
        copies.append(BATCH_EVENTS)
        time.sleep(rng.uniform(0.0, 0.3))
        copies.kill("mirror")
        copies.start("mirror")


def _nothing(_copies: Copies) -> None:
    """The fault is over."""


def _unstick(copies: Copies) -> None:
    assert copies.follower(SINKS, "stuck") < copies.size
    copies.unstick()


FAULTS: Final = (
    Fault(
        "the link to the mirror loses everything",
        _cut("ledger", "mirror"),
        _mend("ledger", "mirror"),
        stops=("mirror", "tlog_mirror"),
        spares=("bucket", "siem", "reader"),
    ),
    Fault(
        "what the ledger sends to the mirror is lost",
        _cut("ledger", "mirror", one_way=True),
        _mend("ledger", "mirror"),
        stops=("mirror", "tlog_mirror"),
        spares=("bucket", "siem", "reader"),
    ),
    Fault(
        "what the mirror sends to the ledger is lost",
        _cut("mirror", "ledger", one_way=True),
        _mend("ledger", "mirror"),
        stops=("mirror", "tlog_mirror"),
        spares=("bucket", "siem", "reader"),
    ),
    Fault(
        "half-open: the ledger ends unheard and is back",
        _restart_ledger_behind_a_cut,
        _mend("ledger", "mirror"),
        stops=("mirror", "tlog_mirror"),
        spares=("bucket", "siem", "reader"),
    ),
    Fault(
        f"the link to the mirror has {SLOW_KBIT_S} kbit/s",
        _slow("ledger", "mirror"),
        _wait_and_mend("ledger", "mirror"),
        stops=(),
        spares=("bucket", "siem", "reader"),
    ),
    Fault(
        "the link to the bucket and the receiver loses everything",
        _cut("ledger", "bucket"),
        _mend("ledger", "bucket"),
        stops=("bucket", "siem"),
        spares=("mirror", "tlog_mirror"),
    ),
    Fault(
        "what the bucket and the receiver answer is lost",
        _cut("bucket", "ledger", one_way=True),
        _mend("ledger", "bucket"),
        stops=("bucket",),
        spares=("mirror", "tlog_mirror"),
    ),
    Fault(
        f"the link to the bucket and the receiver has {SLOW_KBIT_S} kbit/s",
        _slow("ledger", "bucket"),
        _wait_and_mend("ledger", "bucket"),
        stops=(),
        spares=("mirror", "tlog_mirror"),
    ),
    Fault(
        "the bucket answers 500",
        _answer(500),
        _be_right,
        stops=("bucket", "reader"),
        spares=("mirror", "tlog_mirror", "siem"),
    ),
    Fault(
        "the bucket answers 503",
        _answer(503),
        _be_right,
        stops=("bucket", "reader"),
        spares=("mirror", "tlog_mirror", "siem"),
    ),
    Fault(
        "the bucket answers with wrong bytes",
        _be_wrong,
        _be_right,
        stops=("reader",),
        spares=("mirror", "tlog_mirror", "siem"),
    ),
    Fault(
        "the bucket answers with an old checkpoint",
        _be_old,
        _be_right,
        stops=("reader",),
        spares=("mirror", "tlog_mirror", "siem"),
    ),
    Fault(
        "a receiver that never reads",
        _nothing,
        _unstick,
        stops=(),
        spares=COPIES,
    ),
    Fault(
        "the disk of the mirror is full",
        _fill,
        _free,
        stops=("mirror",),
        spares=("bucket", "siem", "reader", "tlog_mirror"),
    ),
    Fault(
        f"the mirror is killed {KILLS} times",
        _kill_mirror,
        _nothing,
        stops=(),
        spares=COPIES,
    ),
)


def _begin(kind: Kind, routes: Sequence[str]) -> Callable[[Copies], None]:
    def begin_it(copies: Copies) -> None:
        assert copies.proxies is not None
        begin(copies.proxies, kind, routes)

    return begin_it


def _heal(kind: Kind) -> Callable[[Copies], None]:
    def end(copies: Copies) -> None:
        assert copies.proxies is not None
        try:
            if kind.is_slow:
                copies.wait_until_all()
        finally:
            copies.proxies.heal()

    return end


def toxic_faults() -> Iterator[Fault]:
    """Each kind of toxiproxy, between the ledger and the mirrors, and before the bucket."""
    places = (("between the ledger and its mirrors", TO_LEDGER), ("to the bucket", TO_BUCKET))
    for where, routes in places:
        for kind in KINDS:
            yield Fault(
                f"{where}: {kind.name}",
                _begin(kind, routes),
                _heal(kind),
                stops=routes if kind.is_whole else (),
                spares=[each for each in ROUTES if each not in routes],
            )
    slow = next(kind for kind in KINDS if "KB/s" in kind.name)
    yield Fault(
        f"all are refused for {BACKLOG_EVENTS:,} events, and have {slow.name} then",
        _begin_backlog(slow),
        _heal(slow),
        stops=(),
        spares=(),
    )


def _begin_backlog(kind: Kind) -> Callable[[Copies], None]:
    def begin_it(copies: Copies) -> None:
        assert copies.proxies is not None
        for name in ROUTES:
            copies.proxies.close(name)
        for _ in range(0, BACKLOG_EVENTS, BACKLOG_EVENTS // 4):
            copies.append(BACKLOG_EVENTS // 4)
        begin(copies.proxies, kind, ROUTES)
        copies.proxies.open(ROUTES)

    return begin_it


def run_lying_link(copies: Copies) -> Result:
    """Put a host between the mirror and the ledger that changes all bundles of entries."""
    name = "somebody between ledger and mirror changes entries"
    ledger = copies.on["ledger"]
    lying = ledger.run(lambda: BadStore(copies.url, address=ledger.address).__enter__())
    config = copies.mirror_directory / "mirror.toml"
    true = config.read_text()

    def begin(copies: Copies) -> None:
        lying.alter = lambda path, body: _flip(path, body) if "/entries/" in path else body
        lying.fault = lambda _method, path: Reply(503) if "/stream" in path else None
        copies.stop("mirror")
        config.write_text(true.replace(copies.url, lying.endpoint))
        copies.start("mirror")

    def end(copies: Copies) -> None:
        assert any((copies.mirror_directory / "evidence").iterdir())
        copies.stop("mirror")
        config.write_text(true)
        copies.start("mirror")

    spares = ("bucket", "siem", "reader", "tlog_mirror")
    try:
        return run_case(copies, Fault(name, begin, end, stops=("mirror",), spares=spares))
    finally:
        lying.__exit__()


def run_wiped_host(copies: Copies) -> list[Result]:
    """Wipe the ledger's host; promote the mirror, and restore the archive. Nothing goes on then.

    Its last entries are acknowledged while its links are cut: they are confirmed nowhere else.
    """
    copies.wait_until_all()
    before = copies.sizes()
    answers = Answers(copies, "mirror")
    for other in ("mirror", "bucket"):
        copies.network.cut("ledger", other)
    copies.append(ALONE_EVENTS)
    look_until([answers], 1.0)
    truth = copies.on["ledger"].run(
        lambda: check_log(copies.url, copies.tokens["admin"], copies.policy)
    )
    unverified = answers.unverified()
    copies.kill("ledger")
    shutil.rmtree(copies.directory)
    look_until([answers], 1.0)

    started_s = time.monotonic()
    copies.stop("mirror")
    promoted = copies.command("mirror", "mirror", "promote", str(copies.mirror_directory))
    assert not promoted.returncode, promoted.stderr
    token = make_token(copies.mirror_directory, name="app", scopes=("append", "read"), tenant=None)
    copies.start("promoted")
    mirror = copies.on["mirror"]
    url = f"http://{mirror.address}:{copies.ports['mirror']}"
    taken = copies.ask("promoted", "/v1/events", body={"events": [event()]}, token=token)
    wrong = [] if taken.status == 200 else [f"the promoted mirror answers {taken.status}"]
    policy = parse_policy((copies.mirror_directory / "policy").read_bytes())
    found = mirror.run(lambda: check_log(url, token, policy)).leaves
    wrong += _lost(found, truth.leaves, before.mirror)
    took_s = time.monotonic() - started_s
    gone = f"{ALONE_EVENTS} were on the wiped host alone"
    name = "the ledger's host is wiped, {}"
    results = [
        Result(
            name.format("the mirror promoted"),
            before,
            ALONE_EVENTS,
            gone,
            wrong,
            f"takes events after {took_s:.0f} s",
            answers.count,
            unverified,
        )
    ]
    started_s = time.monotonic()
    to = copies.mirror_directory.with_name("restored")
    done = copies.command("mirror", *copies.bucket_arguments("restore", str(to)))
    wrong = [f"restore: {done.stderr[-500:]}"] if done.returncode else []
    if not wrong:
        with closing(LogStore.open(to / "log")) as log:
            restored = [log.leaf(index) or b"" for index in range(log.head().tree_size)]
        wrong = _lost(restored, truth.leaves, before.bucket)
    took_s = time.monotonic() - started_s
    name = name.format("the bucket restored")
    results.append(
        Result(name, before, ALONE_EVENTS, gone, wrong, f"restored after {took_s:.0f} s", 0, 0)
    )
    return results


def _lost(found: Sequence[bytes], truth: Sequence[bytes], confirmed: int) -> list[str]:
    """What is missing of the entries that a copy had confirmed."""
    if list(found[:confirmed]) == list(truth[:confirmed]):
        return []
    return [f"of {confirmed} confirmed entries {len(found)} are there, or others"]


def table(results: Sequence[Result]) -> str:
    """The results as Markdown."""
    rows: list[Sequence[str]] = [
        (
            "fault",
            "confirmed before: ledger, mirror, bucket, receiver",
            "acknowledged meanwhile",
            "behind at its end",
            "lost",
            "all caught up after",
            "unverified answers",
        )
    ]
    rows.append(["---"] * len(rows[0]))
    for each in results:
        confirmed = ", ".join(f"{size:,}" for size in each.before[:4])
        rows.append(
            (
                *(each.fault, confirmed, str(each.acknowledged), each.behind, str(len(each.wrong))),
                *(each.recovered, f"{each.unverified} of {each.answers}"),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


Run = tuple[str, Callable[[Copies], list[Result]]]
"""A case: its name, and what runs it."""


def _case(fault: Fault) -> Run:
    return fault.name, lambda copies: [run_case(copies, fault)]


def main(arguments: list[str]) -> int:
    """Run the cases; 1 when one went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.networks")
    parser.add_argument("--only", default="", help="the cases with this in their names")
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md")
    asked = parser.parse_args(arguments)
    if reason := missing_for_hosts() or missing_toxiproxy():
        _say(f"no hosts can be made here: {reason}")
        return 1
    os.environ["LEDGER_WORKERS"] = "0"
    links: list[Run] = [
        *map(_case, FAULTS),
        ("somebody between changes entries", lambda copies: [run_lying_link(copies)]),
        ("the ledger's host is wiped", run_wiped_host),
    ]
    toxics = [_case(fault) for fault in toxic_faults()]
    results: list[Result] = []
    failures = 0
    for names, cases in ((HOSTS, links), ((*HOSTS, HOST), toxics)):
        chosen = [(name, run) for name, run in cases if asked.only in name]
        if chosen:
            found, failed = _run_cases(names, chosen)
            results += found
            failures += failed
    _say(table(results))
    if asked.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        tail = rest.partition(END)[2]
        PAGE.write_text(f"{head}{BEGIN}\n\n{table(results)}\n\n{END}{tail}", encoding="utf-8")
    return int(bool(failures) or not all(each.is_right for each in results))


def _run_cases(names: Sequence[str], cases: Sequence[Run]) -> tuple[list[Result], int]:
    """Run cases on new programs on these hosts: their results, and how many have failed."""
    results: list[Result] = []
    failures = 0
    with (
        tempfile.TemporaryDirectory(prefix="ledger-networks-") as folder,
        network(*names) as hosts,
        Copies(hosts, Path(folder)) as copies,
    ):
        for name, run in cases:
            try:
                found = run(copies)
            except Exception:  # noqa: BLE001 - one case that fails is a result
                _say(f"{name}: {traceback.format_exc()}")
                failures += 1
                continue
            results += found
            for each in found:
                _say(f"{each.fault}: {'; '.join(each.wrong) or 'nothing lost'}, {each.recovered}")
    return results, failures


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - its output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
