"""Finds out whether one event fails on the way to the ledger, or any request would.

A firewall or a proxy may refuse one event every time, and everything behind it would wait for ever.
It is the event if other ones go through and it fails again. What counts as another one differs:

* It is refused, or answered with a page (`Refusal`). The other one is one that the ledger took
  before, and knows by its id. In a process that has sent nothing yet, it is one behind it in its
  directory, or the first one of another directory. One of two servers behind a balancer may be the
  one that refuses, so the two are sent in an order that no balancer repeats.
* It gets no answer, or a 5xx, each time. An outage looks the same, and may concern new events alone
  (a full disk) or long ones (a proxy's full disk, a path that drops long packets). So the others
  are new to the ledger and together as long as the event, and `PASSES` of them go through in turns
  with it, for `PATIENCE_S`. Once that has found an event, the next ones are tried at once, as those
  that are refused: a stranger who can make such events would hold up all others.

An answer with Retry-After is about the ledger, never about an event. An event with private values
is sent again as long as it gets no answer: a dead letter would not have the values.
"""

import os
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from ledger_client.errors import RejectedError, UnsettledError
from ledger_client.recording.dead_letters import NO_ANSWER
from ledger_client.recording.delivery import Delivery
from ledger_client.recording.frames import Frame, is_enveloped
from ledger_client.recording.spool_dir import InstanceDir
from ledger_client.recording.spool_reader import SpoolReader
from ledger_client.results import Receipt, Rejected
from ledger_core.api import Problem
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

Refusal = RejectedError | MalformedError
"""A firewall answers with a status of its own, or with a page."""

REFUSALS: Final = (RejectedError, MalformedError)

Failure = Refusal | UnavailableError

ATTEMPTS: Final = (1, 2, 1, 2, 1, 1, 1, 2, 1, 2)
"""How often a refused event is sent after each time that the other one is.

Where every second request fails by chance, one in 16 million events gets such a row of answers.
"""

PASSES: Final = 16
"""Where nearly all requests fail by chance, others pass before the event in one case of three: so
often in a row in one of 43 million."""
PATIENCE_S: Final = 600.0
PATIENCE_SPENT_S: Final = 3600.0
"""How long after an event that got no answer the next ones need no `PATIENCE_S`."""

SUSPECT: Final = "suspect"

_SKIPPED: Final = 0.25
_SKIPPED_EACH: Final = 3
"""Of the turns of the others, so many are left out by chance, and each third one."""


@dataclass(slots=True)
class _Trial:
    """An event that got no answer, and what others got since."""

    seq: int
    began_s: float | None = None
    """When others passed first."""
    passes: int = 0
    has_passed: bool = False
    """Whether others passed since it failed last."""
    turns: int = 0


class Probe:
    """Sends single events by `delivery`. For one thread."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery: Final = delivery
        self._taken: Frame | None = None
        self._trials: Final[dict[str, _Trial]] = {}
        """By the instance of their directory."""
        self._impatient_until_s = 0.0

    def note_taken(self, instance: str, frames: Iterable[Frame]) -> None:
        """Take note of events that the ledger has, after the first one of a directory was sent."""
        self._trials.pop(instance, None)
        # Private values may have been erased since: they are not sent again.
        known = (frame for frame in frames if not is_enveloped(frame.sent_json))
        self._taken = min(known, key=_size, default=self._taken)

    def find_others(
        self,
        error: Failure,
        failed: Frame,
        behind: Sequence[Frame],
        reader: SpoolReader,
        readers: Iterable[SpoolReader],
    ) -> list[Frame]:
        """Events to send beside the one that failed; none where there are none, or too few.

        `behind` stand behind it in its segment; `reader` is that of its directory.

        Raises: OSError.
        """
        # A ledger might refuse all but what it has.
        is_of_ledger = isinstance(error, RejectedError) and "#" in error.problem.type
        is_refusal = isinstance(error, REFUSALS)
        if is_refusal and self._taken is not None and not is_of_ledger:
            return [self._taken]
        if is_refusal and behind:
            return [random.choice(behind)]  # noqa: S311 - any one: it may be refused itself
        following = reader.read_following()
        firsts = [each.read(1) for each in readers if each is not reader]
        others = [] if following is None else [following]
        others += [batch.frames[0] for batch in firsts if batch is not None]
        if is_refusal:
            return others[:1]
        return _as_long([*behind, *others], failed)

    def decide(
        self, error: Failure, at: InstanceDir, failed: Frame, others: list[Frame]
    ) -> list[Receipt | Rejected]:
        """The outcome for `failed` alone; `at` is its directory, `others` are of `find_others`.

        Raises: `error`, or as `Delivery.append`, when it may be any request that fails.
        """
        if isinstance(error, UnavailableError):
            return self._judge(error, at.instance, failed, others)
        if not others:
            raise error
        # The answer itself may show the event.
        detail = "the answer was none of a ledger's, each time"
        problem = Problem(status=HTTPStatus.BAD_GATEWAY, detail=detail)
        for attempts in ATTEMPTS:
            self._delivery.append(others)
            for _ in range(attempts):
                try:
                    return self._delivery.append([failed])
                except RejectedError as refusal:
                    problem = refusal.problem
                except MalformedError:
                    # A proxy whose pages come and go must not cost an event.
                    continue
        return [Rejected(id=None, problem=problem, is_sent=True)]

    def try_others(self, at: InstanceDir, others: list[Frame]) -> None:
        """Send `others` after the wait for an event that got no answer."""
        trial = self._trials.get(at.instance)
        if trial is None or not others:
            return
        trial.turns += 1
        # Otherwise the servers behind a balancer might take turns as these requests do.
        if trial.turns % _SKIPPED_EACH == 0 or random.random() < _SKIPPED:  # noqa: S311 - any order will do
            return
        try:
            outcomes = self._delivery.append(others)
        except (UnavailableError, VerificationError, *REFUSALS):
            trial.has_passed = False
            return
        if _has_new(outcomes):
            trial.passes += 1
            trial.has_passed = True
            if trial.began_s is None:
                trial.began_s = time.monotonic() - _suspected_s(at.lock_fd, trial.seq)

    def _judge(
        self, error: UnavailableError, instance: str, failed: Frame, others: list[Frame]
    ) -> list[Receipt | Rejected]:
        """The outcome for an event that got no answer again. Raises: `error` for none yet."""
        if is_enveloped(failed.sent_json):
            raise error
        now_s = time.monotonic()
        trial = self._trials.get(instance)
        if trial is None or trial.seq != failed.seq:
            trial = self._trials[instance] = _Trial(failed.seq)
        is_impatient = now_s < self._impatient_until_s
        patience_s = 0.0 if is_impatient else PATIENCE_S
        is_over = trial.has_passed and trial.passes >= PASSES
        trial.has_passed = False
        if trial.began_s is None or not is_over or now_s - trial.began_s < patience_s:
            if not (is_impatient and others):
                raise error
            taken = self._try_at_once(error, failed, others)
            if taken is not None:
                return taken
        del self._trials[instance]
        self._impatient_until_s = now_s + PATIENCE_SPENT_S
        reason = error.cause if isinstance(error, UnsettledError) else error
        detail = f"no answer each time, while the ledger took others: {reason}"
        return [Rejected(id=None, problem=Problem(type=NO_ANSWER, detail=detail), is_sent=True)]

    def _try_at_once(
        self, error: UnavailableError, failed: Frame, others: list[Frame]
    ) -> list[Receipt | Rejected] | None:
        """Send the event in turns with others; None where they pass and it never does.

        Raises: `error` where none of the others is new, and as `Delivery.append`.
        """
        for number, attempts in enumerate(ATTEMPTS):
            outcomes = self._delivery.append(others)
            if not (number or _has_new(outcomes)):
                raise error
            for _ in range(attempts):
                try:
                    return self._delivery.append([failed])
                except UnavailableError as again:
                    if not is_perhaps_of_event(again):
                        raise
        return None


def _suspected_s(folder_fd: int, seq: int) -> float:
    """For how long others have passed this event, which a process before this one may know.

    The file of this name has its number, and the time of its last change. Where it can't be made,
    as on a full disk, each process begins anew, and tries the event for longer.
    """
    number = f"{seq}\n".encode()
    with suppress(OSError):
        fd = os.open(SUSPECT, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=folder_fd)
        try:
            if os.pread(fd, len(number) + 1, 0) == number:
                return max(0.0, time.time() - os.fstat(fd).st_mtime)
            os.ftruncate(fd, 0)
            os.pwrite(fd, number, 0)
        finally:
            os.close(fd)
    return 0.0


def is_perhaps_of_event(error: Failure) -> bool:
    """Whether its event may be why a request failed: not where the ledger asks for a wait."""
    return not isinstance(error, UnavailableError) or error.retry_after_s is None


def _has_new(outcomes: list[Receipt | Rejected]) -> bool:
    """Whether some of the events were new to the ledger: a full one still knows what it has."""
    return any(isinstance(each, Receipt) and not each.is_duplicate for each in outcomes)


def _as_long(candidates: list[Frame], failed: Frame) -> list[Frame]:
    """Some of the events, together as long as the one that failed; none if all are shorter."""
    chosen = []
    left = _size(failed)
    for frame in random.sample(candidates, len(candidates)):
        if not is_enveloped(frame.sent_json):
            chosen.append(frame)
            left -= _size(frame)
            if left <= 0:
                return chosen
    return []


def _size(frame: Frame) -> int:
    return len(frame.sent_json)
