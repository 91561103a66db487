"""Commands of root, as by sudo, in the folder of a service that runs as another user."""

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from ledger.demo.child_service import make_ledger
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.start_record import remember_files
from ledger.store.compaction import compact
from tests.cli.conftest import run_here
from tests.served import ORIGIN

NOBODY = 65_534

COMMANDS = (
    "reindex {0}",
    "reindex {0}",
    "status {0}",
    "fsck {0}",
    "token create {0} --name a --scope read",
    "sink add {0} siem --type file --path /nowhere/out.jsonl",
    "sink pause {0} siem",
    "alarm init {0}",
    "archive add {0} a --url s3://bucket/log --no-check",
    "retention hold add {0} case-7 --query actor:u_5 --reason asked",
    "erase {0} --subject u_5 --reason asked --yes",
    "sink remove {0} siem",
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_what_root_makes_in_the_folder_of_another_user_is_that_users(tmp_path: Path) -> None:
    """It was root's alone: the service could not read `sinks.toml` or its index, or not start."""
    directory = tmp_path / "ledger"
    make_ledger(directory, origin=ORIGIN)
    paths = DirectoryPaths(directory)
    remember_files(paths)
    for lock in directory.rglob("lock.mdb"):
        lock.unlink()
    for path in (directory, *directory.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for command in COMMANDS:
        said = run_here(*command.format(directory).split())
        # No private value is of that subject, and its store was made.
        assert said.code == (6 if "erase" in command else 0), (command, said)
    with closing(open_tokens(paths)) as access:
        compact(access.environment, check=lambda _draft: None)
    made = {str(path.relative_to(directory)): path.lstat() for path in directory.rglob("*")}
    assert {"index", "sinks.toml", "legal-holds.json", "access/data.mdb"} <= made.keys()
    assert {
        name for name, each in made.items() if (each.st_uid, each.st_gid) != (NOBODY, NOBODY)
    } == set()
    shutil.rmtree(directory)
