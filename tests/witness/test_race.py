"""A hundred that ask at once, and kills between: no head is ever rolled back.

The log grows in small steps, and whoever asks believes what the witness told it last. Each request
that was answered moved the head from one size to another. Had a head ever been put back, two of
them would start from one size; and a head that was shown and then forgotten would be larger than
what the witness knows after its restart.
"""

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from ledger.demo.child_service import Service
from ledger_core.tlog.checkpoint import parse_checkpoint
from ledger_core.tlog.note import parse_note
from ledger_core.tlog.witness import parse_size_answer
from tests.tlog.oracle import Oracle
from tests.witness.asking import add_checkpoint, ask, check_cosigned
from tests.witness.logs import Log
from tests.witness.witnesses import SIGNERS, make_witness, serve_witness

ROUNDS = 5
ASKING = 100
ANSWERS_BEFORE_KILL = 60
STEP_MAX = 3
LOG = Log(
    "example.com/log",
    Oracle([b"leaf %d" % n for n in range(ROUNDS * (ANSWERS_BEFORE_KILL + ASKING) * STEP_MAX)]),
)
VKEYS = [str(SIGNERS[0].verifier)]


class Crowd:
    """The clients that ask one witness until it is killed; `moves` are its answers."""

    def __init__(self, service: Service, known_size: int) -> None:
        self.moves: list[tuple[int, int, int]] = []
        self._service = service
        self._told_size = known_size
        self._lock = threading.Lock()

    def run(self) -> None:
        with ThreadPoolExecutor(ASKING) as threads:
            for done in [threads.submit(self._ask_until_killed, n) for n in range(ASKING)]:
                done.result()

    def _ask_until_killed(self, number: int) -> None:
        rng = random.Random(number)
        # The connection breaks when the witness dies, before or after its answer.
        with suppress(OSError, EOFError):
            while True:
                old_size = self._told_size
                tree_size = old_size + rng.randrange(STEP_MAX + 1)
                answer = add_checkpoint(self._service.url, LOG.grow(old_size, tree_size))
                if answer.status == 409:
                    self._told_size = max(self._told_size, parse_size_answer(answer.body))
                    continue
                (time_unix_s,) = check_cosigned(answer, LOG.note(tree_size), VKEYS)
                self._note_move(old_size, tree_size, time_unix_s)

    def _note_move(self, old_size: int, tree_size: int, time_unix_s: int) -> None:
        with self._lock:
            self._told_size = max(self._told_size, tree_size)
            self.moves.append((old_size, tree_size, time_unix_s))
            if len(self.moves) == ANSWERS_BEFORE_KILL:
                os.kill(self._service.process_id, signal.SIGKILL)


def known_size(service: Service) -> int:
    """Ask the witness for its head, verify it, and return its size."""
    answer = ask(service.url, "GET", f"/{LOG.origin_hash.hex()}/checkpoint")
    if answer.status == 404:
        return 0
    checkpoint = parse_checkpoint(parse_note(answer.body).text)
    assert checkpoint == LOG.checkpoint(checkpoint.tree_size)
    return checkpoint.tree_size


def test_no_head_is_rolled_back_by_whoever_asks_at_once_or_by_a_kill(tmp_path: Path) -> None:
    make_witness(tmp_path / "w", [LOG], signers=SIGNERS[:1])
    moves: list[tuple[int, int, int]] = []
    largest = 0
    for _ in range(ROUNDS):
        with serve_witness(tmp_path / "w") as service:
            known = known_size(service)
            assert known >= largest
            crowd = Crowd(service, known)
            crowd.run()
            moves += crowd.moves
            largest = max(tree_size for _, tree_size, _ in moves)
    growing = [old_size for old_size, tree_size, _ in moves if tree_size > old_size]
    assert len(set(growing)) == len(growing) > 0
    # Of two heads the larger was never cosigned at an earlier time.
    by_size = sorted((tree_size, time_unix_s) for _, tree_size, time_unix_s in moves)
    for (smaller, before), (larger, after) in pairwise(by_size):
        assert smaller == larger or before <= after
    with serve_witness(tmp_path / "w") as service:
        assert known_size(service) >= largest
