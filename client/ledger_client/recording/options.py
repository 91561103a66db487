"""What an application chooses, and what it is told when that is not to wait."""

from typing import Literal

Fsync = Literal["each", "interval", "none"]
"""When an event outlives the machine: before `record` returns, within an interval, some time."""

OnFull = Literal["block", "raise", "drop"]
"""What happens when the spool is full."""

OnInvalid = Literal["raise", "dead-letter"]
"""What happens to an event with a mistake in it."""


class SpoolFullError(Exception):
    """The event was not recorded: the spool is full, and the application asked to be told."""


class SpoolClosedError(Exception):
    """The spool was closed: what comes now belongs to a new one."""
