"""A service that sends its log to mirrors: lag, cosignatures in the checkpoint, kills and ends."""

import os
import signal
from contextlib import closing
from pathlib import Path

from ledger.demo.child_service import Service, make_ledger
from ledger.follow.position import read_report
from ledger.log.mirror_peer import HeadRecord, cosigned_path, write_head
from ledger.mirror_push.config import KIND
from ledger.service.token_admin import make_token
from ledger.store.log import LogStore
from ledger.tlog_mirror.data_dir import TlogMirrorPaths
from ledger.tlog_mirror.log_copy import check_copy
from ledger_client import LedgerClient
from ledger_core.tlog.policy import parse_policy
from tests.mirror_push.pushing import add_to
from tests.served import FLAGS, ORIGIN
from tests.service.serving import send
from tests.tlog_mirror.sending import SIGNERS, make_tlog_mirror
from tests.waiting import until

WAIT_S = 200.0
"""Followers run at low priority, so on a machine with other work they start slowly."""

EVENT = {"actor": {"id": "u_1"}, "action": "record.viewed", "outcome": "success"}


def serve_mirror(root: Path, listen: str = "127.0.0.1:0") -> Service:
    flags = ("--log-level", "error")
    return Service(root, listen=listen, command=("tlog-mirror", "serve"), flags=flags)


def mirror_for(directory: Path, root: Path) -> TlogMirrorPaths:
    """A mirror that takes the log of a ledger."""
    (log,) = parse_policy((directory / "policy").read_bytes()).logs
    return make_tlog_mirror(root, [(ORIGIN, str(log.verifier))])


def copied(paths: TlogMirrorPaths) -> list[bytes]:
    """The entries that a mirror has."""
    with closing(LogStore.open(paths.log(ORIGIN))) as store:
        size = store.head().tree_size
        with store.environment.read() as transaction:
            return [leaf for some in store.leaves_between(transaction, 0, size) for leaf in some]


def logged(directory: Path) -> list[bytes]:
    """The entries of a ledger."""
    with closing(LogStore.open(directory / "log")) as store:
        size = store.head().tree_size
        with store.environment.read() as transaction:
            return [leaf for some in store.leaves_between(transaction, 0, size) for leaf in some]


def confirmed(directory: Path, name: str = "m1") -> int:
    return read_report(directory, KIND, name).next_index


def test_a_mirror_gets_all_entries_also_after_kills_on_both_sides(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory, origin=ORIGIN)
    admin = make_token(directory, name="admin", scopes=("admin",), tenant=None)
    paths = mirror_for(directory, tmp_path / "m")
    with (
        Service(directory, listen="127.0.0.1:0", flags=FLAGS) as service,
        LedgerClient(service.url, token, policy=directory / "policy") as client,
    ):
        with serve_mirror(paths.root) as mirror:
            add_to(directory, m1=mirror.url)
            client.append_many([EVENT] * 700)
            size = len(logged(directory))
            until(lambda: confirmed(directory) >= size, WAIT_S)
            os.kill(mirror.process_id, signal.SIGKILL)
        client.append_many([EVENT] * 300)
        until(lambda: read_report(directory, KIND, "m1").state.error != "", WAIT_S)
        seen = {"Authorization": f"Bearer {admin}"}
        metrics = send(service.url, "/metrics", method="GET", body=None, headers=seen).text
        assert 'ledger_follower_failing{follower="mirrors/m1"} 1\n' in metrics
        ready = send(service.url, "/readyz", method="GET", body=None, headers={}).text
        assert "mirrors/m1 fails" in ready
        with serve_mirror(paths.root, mirror.url.removeprefix("http://")):
            size = len(logged(directory))
            until(lambda: confirmed(directory) >= size, WAIT_S)
            until(lambda: read_report(directory, KIND, "m1").state.error == "", WAIT_S)
    assert copied(paths) == logged(directory)[: len(copied(paths))]
    assert len(copied(paths)) >= size
    assert check_copy(paths.log(ORIGIN)) == []


def test_a_quorum_with_a_mirror_means_on_another_host(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory, origin=ORIGIN)
    paths = mirror_for(directory, tmp_path / "m")
    witnesses = "".join(
        f"witness m{number} {signer.verifier}\n" for number, signer in enumerate(SIGNERS)
    )
    policy = directory / "policy"
    text = policy.read_text().replace(
        "quorum none", f"{witnesses}group both all m0 m1\nquorum both"
    )
    policy.write_text(text)
    # An answer to an offer of a clock that was ahead, and the offer is lost: a crash takes either.
    left = HeadRecord(number=1 << 62, note="an earlier head")
    write_head(cosigned_path(directory, "m1"), left)
    with serve_mirror(paths.root) as mirror:
        add_to(directory, m1=mirror.url)
        with (
            Service(directory, listen="127.0.0.1:0", flags=FLAGS) as service,
            LedgerClient(service.url, token, policy=policy) as client,
        ):
            for _ in range(3):
                client.append_many([EVENT] * 10)
                head = client.checkpoint()
                assert len(head.cosignatures) == len(SIGNERS)
                with closing(LogStore.open(paths.log(ORIGIN))) as copy:
                    assert copy.head().tree_size >= head.checkpoint.tree_size
