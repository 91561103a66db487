"""The process of one mirror: `python -m ledger.mirror_push.worker DIR NAME`.

It sends the head that the publisher offers, as soon as it is there, or else the published one at an
interval. The position is what the mirror has confirmed; it moves while entries are sent. A mirror
that has had more from this log than the log has is asked for its checkpoint: if the log has signed
that, the publisher takes it from a file, and the log takes no events.
"""

import asyncio
import sys
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final

from ledger.follow.entries import check_position, position_at
from ledger.follow.position import Cursor, FollowerPaths
from ledger.follow.tables import check_name
from ledger.follow.worker import Waits, keep_following, run_worker, until_stopped
from ledger.log.mirror_peer import (
    HeadRecord,
    cosigned_path,
    lost_path,
    read_head,
    write_head,
)
from ledger.mirror_push.config import KIND, MirrorTarget, mirror_verifiers, read_target
from ledger.mirror_push.heads import OwnHeads
from ledger.mirror_push.mirror_client import AheadError, LostError, MirrorClient
from ledger.object_storage.open_log import open_log
from ledger.runtime.tasks import wait_set
from ledger.sinks.delivery import Health
from ledger_client.runtime.files import read_limited
from ledger_client.runtime.process_end import end_process
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy

POLL_S: Final = 0.05


async def follow(
    directory: Path, name: str, config: MirrorTarget, health: Health, stop: asyncio.Event
) -> None:
    """Send heads until `stop` is set. Raises: MalformedError, VerificationError, UnavailableError,
    OSError.
    """
    policy = parse_policy(read_limited(directory / "policy", POLICY_BYTES_MAX))
    verifiers = mirror_verifiers(config, policy)
    with closing(open_log(directory / "log")) as log:
        cursor = Cursor(FollowerPaths(directory, KIND, name))
        check_position(log, cursor.position)

        def move(next_entry: int) -> None:
            position = position_at(log, next_entry)
            cursor.move(position.next_index, position.last_leaf_hash)

        client = MirrorClient(
            config,
            log,
            verifiers=verifiers,
            next_entry=cursor.position.next_index,
            on_kept=move,
        )
        heads = OwnHeads(directory, log, policy)
        try:
            await _send_heads(directory, name, config, health, stop, heads, client)
        except LostError:
            shown = await client.fetch_shown(log.origin())
            if shown is not None and heads.is_lost(shown):
                record = HeadRecord(number=time.time_ns(), note=shown.decode())
                write_head(lost_path(directory, name), record)
            raise
        finally:
            await client.close()


async def _send_heads(
    directory: Path,
    name: str,
    config: MirrorTarget,
    health: Health,
    stop: asyncio.Event,
    heads: OwnHeads,
    client: MirrorClient,
) -> None:
    answered = read_head(cosigned_path(directory, name))
    number = 0 if answered is None else answered.number
    sent: SignedCheckpoint | None = None
    sent_s = -config.interval_s
    while not stop.is_set():
        offered = heads.offered()
        # Other, not larger: the clock may have been ahead when the last one was answered.
        if offered is not None and offered[0] != number:
            number, head = offered
            signatures = await client.push(head)
            whole = SignedCheckpoint(head.checkpoint, (*head.signatures, *signatures))
            write_head(cosigned_path(directory, name), HeadRecord(number=number, note=whole.note))
            sent, sent_s = head, time.monotonic()
        elif time.monotonic() - sent_s >= config.interval_s:
            published = heads.published()
            is_new = published is not None and (
                sent is None or published.head.tree_size > sent.head.tree_size
            )
            if published is not None and is_new:
                # A head that was offered and is not published yet may be there: it is a later one.
                with suppress(AheadError):
                    await client.push(published)
                sent = published
            sent_s = time.monotonic()
        health.set(error="")
        await wait_set(stop, POLL_S)


async def run(directory: Path, name: str, stop: asyncio.Event) -> None:
    """Send until `stop` is set or the mirror is removed; what fails is tried again."""
    check_name(name)
    paths = FollowerPaths(directory, KIND, name)
    health = Health(name, paths, kind="mirror")
    waits, asked_s = Waits(), 0.0

    async def send() -> None:
        nonlocal asked_s
        asked_s = 0.0
        waits.begin()
        config = read_target(directory, name)
        if config is None:
            return
        waits.longest_s, health.expected_lag_s = config.retry_max_s, config.interval_s
        try:
            await until_stopped(stop, follow(directory, name, config, health, stop))
        except UnavailableError as error:
            asked_s = error.retry_after_s or 0.0
            raise

    def note_failure(error: str) -> float:
        health.set(error=error)
        return max(asked_s, waits.after_failure())

    await keep_following(paths, stop, send, on_failure=note_failure)


def main() -> None:
    """Run the mirror that the command line names."""
    directory, name = Path(sys.argv[1]), sys.argv[2]
    run_worker(partial(run, directory, name))


if __name__ == "__main__":
    main()
    end_process(0)
