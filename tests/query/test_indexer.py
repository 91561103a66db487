"""The indexer process and the index follower: they work beside other users of the log, and end."""

import random
import subprocess
import sys
from pathlib import Path

from ledger.follow.followers import Followers
from ledger.query import indexer
from ledger.query.engine import QueryEngine
from ledger.query.indexer import IndexFollower
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import create_log
from tests.query.events import make_entries, make_log, random_event
from tests.waiting import until

WAIT_S = 120.0


def test_the_indexer_runs_until_it_is_stopped(tmp_path: Path) -> None:
    create_log(tmp_path / "log", origin="example.com/audit")
    followers = Followers(tmp_path)
    followers.start()
    until((tmp_path / "index" / "writer.lock").exists)
    assert followers.not_running() == []
    followers.stop()
    assert followers.not_running() == ["index"]
    IndexWriter.open(tmp_path / "index").close()


def test_the_indexer_ends_when_its_parent_has_ended(tmp_path: Path) -> None:
    create_log(tmp_path / "log", origin="example.com/audit")
    process = subprocess.Popen(
        [sys.executable, "-m", indexer.__name__, tmp_path / "log", tmp_path / "index"],
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(WAIT_S) == 0


def test_the_follower_indexes_new_entries_before_a_query_needs_them(tmp_path: Path) -> None:
    rng = random.Random(1)
    writer = make_log(
        tmp_path / "log", make_entries([random_event(rng, number) for number in range(1000)])
    )
    engine = QueryEngine(writer.store, None)
    assert engine.advance(0)
    follower = IndexFollower(engine)
    follower.start()
    until(lambda: not engine.advance(0))
    follower.stop()
    writer.close()
