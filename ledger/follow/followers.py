"""The list of followers, and starting and stopping all of them."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from ledger.follow.process import FollowerProcess


class FollowerSpec(NamedTuple):
    """The command of a follower: `python -m module`, then paths below the ledger's folder."""

    name: str
    module: str
    paths: tuple[str, ...]


FOLLOWERS: Final = (FollowerSpec("index", "ledger.query.indexer", ("log", "index")),)
PARQUET: Final = FollowerSpec("parquet", "ledger.query.parquet_segments", ("log", "parquet"))
"""With the setting `parquet` only."""


class Followers:
    """The followers of one ledger, each in its process."""

    def __init__(self, folder: Path, specs: Sequence[FollowerSpec] = FOLLOWERS) -> None:
        self._processes: Final = [
            FollowerProcess(spec.name, spec.module, [str(folder / path) for path in spec.paths])
            for spec in specs
        ]
        self._started: Final = ExitStack()

    def start(self) -> None:
        """Start every follower; when one can't be started, stop the others."""
        with ExitStack() as starting:
            for process in self._processes:
                process.start()
                starting.callback(process.stop)
            self._started.push(starting.pop_all())

    def stop(self) -> None:
        """Stop every follower."""
        self._started.close()

    def not_running(self) -> list[str]:
        """The names of the followers whose process has ended and isn't started again yet."""
        return [process.name for process in self._processes if process.process_id is None]
