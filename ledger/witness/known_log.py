"""A log that a witness cosigns, and its row in the store."""

from typing import Final, NamedTuple

from ledger_core.tlog.log_list import ListedLog

LOG_KEYS_MAX: Final = 8

_MARK: Final = "cosigned"
_LIMIT: Final = "qpd "
_LISTED: Final = "listed"


class KnownLog(NamedTuple):
    """A log that the witness cosigns: its origin, and the vkeys that it may sign with.

    `is_listed`: a list has added it, and nobody by hand. `requests_per_day` is how often it may
    ask, None for no limit; a log that was added by hand has none.
    """

    origin: str
    vkeys: tuple[str, ...]
    has_head: bool = False
    requests_per_day: float | None = None
    is_listed: bool = False

    def is_as_listed(self, listed: ListedLog) -> bool:
        """Whether a list that has the log so would change nothing."""
        is_same = not self.is_listed or listed.requests_per_day == self.requests_per_day
        return listed.vkey in self.vkeys and is_same


def decode_lines(value: bytes) -> tuple[str, ...]:
    """The lines of a row. Raises: ValueError."""
    # Not splitlines(): an origin may have signs in it that Python takes for the end of a line.
    *lines, rest = value.decode().split("\n")
    if rest:
        raise ValueError("the last line has no end")
    return tuple(lines)


def encode_lines(*lines: str) -> bytes:
    """The row of these lines."""
    return "".join(f"{line}\n" for line in lines).encode()


def decode_log(value: bytes) -> KnownLog:
    """The log in a row. Raises: ValueError."""
    origin, *lines = decode_lines(value)
    has_head = bool(lines) and lines[-1] == _MARK
    if has_head:
        lines.pop()
    requests_per_day = None
    if lines and lines[-1].startswith(_LIMIT):
        requests_per_day = float(lines.pop().removeprefix(_LIMIT))
    # Before version 0.2 no row said who added its log. Only a list could set a limit; a log with
    # more than one key got the others by hand.
    is_listed = requests_per_day is not None and len(lines) == 1
    if lines and lines[-1] == _LISTED:
        lines.pop()
        is_listed = True
    return KnownLog(
        origin,
        tuple(lines),
        has_head=has_head,
        requests_per_day=requests_per_day,
        is_listed=is_listed,
    )


def encode_log(log: KnownLog) -> bytes:
    """The row of a log.

    A line each: the origin, the vkeys, `listed` for a log of a list, `qpd 24` with a limit,
    `cosigned` with a head.
    """
    listed = (_LISTED,) if log.is_listed else ()
    limit = () if log.requests_per_day is None else (f"{_LIMIT}{log.requests_per_day}",)
    mark = (_MARK,) if log.has_head else ()
    return encode_lines(log.origin, *log.vkeys, *listed, *limit, *mark)
