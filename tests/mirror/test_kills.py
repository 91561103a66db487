"""A mirror that is killed goes on where it was, and what it holds is always a part of its log."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

from ledger.store.log import LogStore
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.tree import Frontier
from tests.mirror.mirroring import make_mirror, mirroring, state, wait_published
from tests.service.check_log import check_ledger
from tests.service.serving import Ledger, event
from tests.waiting import until


def test_a_killed_mirror_goes_on_from_what_it_has_verified(tmp_path: Path, ledger: Ledger) -> None:
    folder = tmp_path / "mirror"
    own = make_mirror(folder, ledger)
    # More than one commit's worth: it is killed between two of them, or within one.
    ledger.append(*(event() for _ in range(5000)))
    command = [sys.executable, "-P", "-m", "ledger", "mirror", "serve", str(folder)]
    process = subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stderr=subprocess.DEVNULL)
    try:
        with closing(LogStore.open(folder / "log")) as store:
            until(lambda: store.head().tree_size > 0, "a commit")
            process.kill()
            process.wait()
            held = store.head()
    finally:
        process.kill()
        process.wait()
    with mirroring(folder, own) as mirror:
        wait_published(mirror, state(ledger)["tree_size"])
        leaves = check_ledger(mirror).leaves
    assert leaves == check_ledger(ledger).leaves
    frontier = Frontier()
    frontier.extend([leaf_hash(leaf) for leaf in leaves[: held.tree_size]])
    assert frontier.root() == held.root_hash
