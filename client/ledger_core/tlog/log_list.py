"""A list of logs that witnesses should cosign, as networks of witnesses publish it.

    logs/v0                                           the first line

    vkey example.com/log+7df6c1fa+AXd…                begins a log; its key
    origin example.com/the-log                        its origin, when that is not the key's name
    qpd 86400                                         requests a day that it may send
    contact operator@example.com                      for people

Empty lines and lines that begin with `#` count nothing, and unknown words are passed over. One log
that can't be read doesn't spoil the list: it is left out, with the reason. The first of two logs
with one origin counts.

A list is additive. A witness that forgot a log, and met it again, could sign a second history.

Source: the log list format of the witness network, `logs/v0`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ledger_core.tlog.checkpoint import Checkpoint
from ledger_core.tlog.cosignature import parse_verifier
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.note import check_algorithm
from ledger_core.tlog.policy import LOG_ALGORITHMS
from ledger_core.tlog.text import decode_text, excerpt, from_wire

HEADER = "logs/v0"
LIST_BYTES_MAX = 4 << 20
LISTED_LOGS_MAX = 10_000
REQUESTS_PER_DAY_MAX = 1_000_000_000

_REQUESTS = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class ListedLog:
    """A log of a list. `requests_per_day` is None when the list sets no limit."""

    origin: str
    vkey: str
    requests_per_day: float | None = None
    contact: str | None = None


@dataclass(frozen=True, slots=True)
class LogList:
    """The logs of a list, in its order, and why others were left out, a line each."""

    logs: tuple[ListedLog, ...]
    left_out: tuple[str, ...] = ()


@dataclass(slots=True)
class _Block:
    """The lines of one log, by their words. `line` is where it begins, from 1."""

    line: int
    values: dict[str, str] = field(default_factory=dict)


def parse_log_list(data: bytes | str) -> LogList:
    """Parse a list.

    Raises: MalformedError when it is no such list, or too large.
    """
    if len(data) > LIST_BYTES_MAX:
        raise MalformedError(f"a log list has at most {LIST_BYTES_MAX} bytes, got {len(data)}")
    logs: dict[str, ListedLog] = {}
    left_out = []
    for number, block in enumerate(_blocks(decode_text(data)), 1):
        if number > LISTED_LOGS_MAX:
            raise MalformedError(f"a log list has at most {LISTED_LOGS_MAX} logs")
        try:
            log = _parse_log(block.values)
        except MalformedError as error:
            left_out.append(f"line {block.line}: {error}")
            continue
        if log.origin in logs:
            left_out.append(f"line {block.line}: the origin {excerpt(log.origin)} is listed twice")
        else:
            logs[log.origin] = log
    return LogList(tuple(logs.values()), tuple(left_out))


def _blocks(text: str) -> Iterator[_Block]:
    """The logs as words and values; a word that is given twice has its last value."""
    has_header = False
    block: _Block | None = None
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if not has_header:
            if stripped != HEADER:
                raise MalformedError(
                    f"a log list begins with {HEADER}, this with {excerpt(stripped)}"
                )
            has_header = True
            continue
        word, _, value = stripped.partition(" ")
        if word == "vkey":
            if block is not None:
                yield block
            block = _Block(number)
        elif block is None:
            raise MalformedError(f"line {number}: expected vkey, got {excerpt(stripped)}")
        block.values[word] = value.strip()
    if not has_header:
        raise MalformedError(f"a log list begins with {HEADER}, this is empty")
    if block is not None:
        yield block


def _parse_log(values: dict[str, str]) -> ListedLog:
    """Raises: MalformedError."""
    verifier = parse_verifier(values["vkey"])
    origin = values.get("origin", verifier.name)
    with from_wire():
        check_algorithm(verifier.key, *LOG_ALGORITHMS)
        Checkpoint(origin, 0, EMPTY_ROOT_HASH)
    requests_per_day = None
    if (text := values.get("qpd")) is not None:
        if _REQUESTS.fullmatch(text) is None or not 0 < float(text) <= REQUESTS_PER_DAY_MAX:
            raise MalformedError(
                f"qpd: expected a number above 0, at most {REQUESTS_PER_DAY_MAX}, got "
                f"{excerpt(text)}"
            )
        requests_per_day = float(text)
    return ListedLog(origin, values["vkey"], requests_per_day, values.get("contact"))
