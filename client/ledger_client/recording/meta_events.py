"""The recorder's own events: what it dropped, what was rejected, what it could not read.

    ledger.recorder.dropped    how many, and which numbers of which instance
    ledger.recorder.rejected   which event, by which rule at which field; never the value
    ledger.recorder.damaged    which segment, and how many bytes of it

They go through the spool like any event, with numbers of their own, but past its limit: else nobody
would hear of what the limit cost. There are few of them, since drops are counted up to one event.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ledger_client.problem_details import Problem
from ledger_client.recording.spool import Spool
from ledger_client.recording.spool_reader import Damage
from ledger_core.event.model import LIMITS

PREFIX: Final = "ledger.recorder."
DROPPED: Final = f"{PREFIX}dropped"
REJECTED: Final = f"{PREFIX}rejected"
DAMAGED: Final = f"{PREFIX}damaged"

RANGES_MAX: Final = 500
WAITING_MAX: Final = 1_000
"""Of notices that can't be written down now; what comes then is counted in the log alone."""

Fields = dict[str, Any]


class Notices:
    """Gathers what is to be told, and writes it to the spool when it can. Under the spool's lock.

    `write` makes an event of some fields and appends it. It may raise OSError.
    """

    def __init__(self, spool: Spool, write: Callable[[Fields], None]) -> None:
        self._instance: Final = spool.home.instance
        self._lock: Final = spool.lock
        self._write: Final = write
        self._dropped: list[list[int]] = []  # Ranges, both ends included.
        self._waiting: deque[Fields] = deque(maxlen=WAITING_MAX)

    @property
    def is_waiting(self) -> bool:
        """Tell that something isn't written down yet."""
        return bool(self._dropped or self._waiting)

    def dropped(self, seq: int) -> None:
        """A number was used up, and its event is gone."""
        with self._lock:
            if self._dropped and self._dropped[-1][1] == seq - 1:
                self._dropped[-1][1] = seq
            else:
                self._dropped.append([seq, seq])

    def rejected(
        self,
        event: dict[str, Any],
        problem: Problem,
        *,
        number: dict[str, Any] | None,
        is_kept: bool,
    ) -> None:
        """An event is in the dead-letter file, or not even there. `event` is cut already."""
        told: dict[str, Any] = {
            "rule": problem.slug,
            "field": (problem.field or "")[: LIMITS["name"].most],
            "in_dead_letter_file": is_kept,
        }
        for name in ("action", "outcome", "time"):
            if isinstance(event.get(name), str):
                told[name] = event[name][: LIMITS["action"].most]
        if number is not None:
            told["recorder"] = number
        fields: Fields = {"action": REJECTED, "context": {"rejected": told}}
        if isinstance(event.get("id"), str):
            fields["targets"] = [{"type": "event", "id": event["id"][: LIMITS["id"].most]}]
        self._add(fields)

    def damaged(self, damage: Damage) -> None:
        """A segment could not be read to its end."""
        told = {
            "instance": damage.instance,
            "segment": damage.segment,
            "bytes_lost": damage.bytes_lost,
        }
        self._add({"action": DAMAGED, "context": {"damaged": told}})

    def settle(self) -> None:
        """Write down what waits, as far as the disk allows. Raises: OSError."""
        with self._lock:
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting.popleft()
            while self._dropped:
                ranges = self._dropped[:RANGES_MAX]
                told = {
                    "instance": self._instance,
                    "count": sum(last - first + 1 for first, last in ranges),
                    "numbers": ranges,
                }
                self._write({"action": DROPPED, "context": {"dropped": told}})
                del self._dropped[: len(ranges)]

    def _add(self, fields: Fields) -> None:
        with self._lock:
            self._waiting.append(fields)
