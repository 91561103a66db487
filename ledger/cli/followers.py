"""Shared by the commands of sinks and archives: a follower by its name, and acts as events."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from ledger.service.data_dir import DirectoryPaths
from ledger.service.operator_events import record_act
from ledger.store.log import LogStore
from ledger_client.cli.app import NotFoundError

C = TypeVar("C")


def find_follower(what: str, known: Mapping[str, C], name: str) -> C:
    """The configuration of a follower. Raises: NotFoundError for a name that none has."""
    if name not in known:
        names = ", ".join(known) or "none"
        raise NotFoundError(f"no {what} is named {name!r}; there is {names}")
    return known[name]


def log_size(directory: Path) -> int:
    """The number of entries in the log of a ledger or a mirror."""
    with closing(LogStore.open(directory / "log")) as store:
        return store.head().tree_size


def record_follower(directory: Path, what: str, act: str, name: str, **facts: Any) -> None:
    """Record an act upon a follower as the event `ledger.WHAT.ACT`."""
    targets = [(f"ledger.{what}", name)]
    record_act(DirectoryPaths(directory), f"ledger.{what}.{act}", targets=targets, context=facts)
