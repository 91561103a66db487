"""Makes an independent ledger of a mirror, when the log is gone for good.

The new ledger has the log's origin and entries, and a key of its own; it gives the next indices.
Its policy names the old key and the new one, so that a client goes on from the head that it has
accepted. An event, `ledger.mirror.promoted`, says what happened.

A mirror may know that the log had published more than it holds. The new ledger is held then: its
events would get indices that were given before, and only a person may decide that.

Each step may be repeated: `mirror.toml`, which makes the folder a mirror's, is deleted last.
"""

import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from typing import NamedTuple

import msgspec

from ledger.log.hold import HeldHead, HoldRecord, is_missing, write_hold
from ledger.log.signing import LogSigner
from ledger.mirror.data_dir import MirrorPaths, log_origin, read_config
from ledger.mirror.state import read_status
from ledger.object_storage.open_log import open_writer
from ledger.runtime.keys import write_keys
from ledger.service.data_dir import PromotionRecord, open_tokens, read_signers, write_promotion
from ledger.service.operator_events import operator_event
from ledger.store.log import LogStore
from ledger.witness.data_dir import WitnessPaths
from ledger.witness.store import HeadStore
from ledger_client.runtime.clock import unix_us
from ledger_client.runtime.files import read_limited, sync_directory, write_atomically
from ledger_client.state_file import StateFile
from ledger_core.event.ids import UUID7_RANDOM_BYTES
from ledger_core.event.times import format_time
from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy

_US_PER_NS = 1000


class Promotion(NamedTuple):
    """The ledger that a mirror has become.

    `held`: why it takes no events before a person has decided, or None.
    """

    origin: str
    verifier_key: str
    tree_size: int
    published_size: int
    held: str | None


def promote(
    paths: MirrorPaths, *, make_seed: Callable[[], bytes], policy: bytes | None = None
) -> Promotion:
    """Make a ledger of the mirror in a folder. `policy`: the new one, without the new key.

    Raises: UnavailableError when the folder is no mirror, or is being served; MalformedError for a
    policy that is of another log, lacks its keys, or needs the mirror's own cosignature; what
    `StateFile.load` raises when `head.json` is damaged.
    """
    config = read_config(paths)
    text = read_limited(paths.ledger.policy, POLICY_BYTES_MAX) if policy is None else policy
    origin = log_origin(read_limited(paths.ledger.policy, POLICY_BYTES_MAX))
    _check_policy(paths, text, origin)
    # Nobody may be writing it, and its right edge must be whole.
    with closing(open_writer(paths.ledger.log)) as writer:
        head, published = writer.head, writer.store.published()
        hold = _lost(paths, writer.store)
    signer = _own_signer(paths, origin, make_seed)
    vkey = str(signer.verifier)
    write_atomically(paths.ledger.policy, add_log_key(text, vkey))
    record = PromotionRecord(log_url=config.log_url, tree_size=head.tree_size, verifier_key=vkey)
    write_promotion(paths.ledger, record)
    published_size = 0 if published is None else published.head.tree_size
    _enqueue_event(paths, record)
    if hold is not None:
        write_hold(paths.ledger.hold, hold)
    paths.config.unlink()
    sync_directory(paths.root)
    held = None if hold is None else hold.reason
    return Promotion(origin, vkey, head.tree_size, published_size, held)


def add_log_key(policy: bytes, vkey: str) -> bytes:
    """The policy with a further key of the log, below those that it has."""
    lines = policy.decode(errors="surrogateescape").splitlines(keepends=True)
    if any(vkey in line.split() for line in lines):
        return policy
    last = max(number for number, line in enumerate(lines) if line.split()[:1] == ["log"])
    lines.insert(last + 1, f"log {vkey}\n")
    return "".join(lines).encode(errors="surrogateescape")


def _lost(paths: MirrorPaths, store: LogStore) -> HoldRecord | None:
    """The hold for entries that the log had published and the mirror lacks, None for no such entry.

    Raises: as `StateFile.load`.
    """
    policy = parse_policy(read_limited(paths.ledger.policy, POLICY_BYTES_MAX))
    accepted = StateFile(paths.head, policy=policy, monotonic_s=time.monotonic).load()
    size, held = read_status(paths.status).log_size, store.head().tree_size
    heads: tuple[HeldHead, ...] = ()
    if accepted is not None:
        head = parse_signed_checkpoint(accepted)
        size = max(size, head.head.tree_size)
        if is_missing(store, head):
            heads = (HeldHead("this mirror", accepted),)
    if size <= held and not heads:
        return None
    reason = (
        f"the log had published {size} entries, and this mirror held {held} of them when it was "
        "promoted: new events would get indices that were given before"
    )
    return HoldRecord(reason, format_time(unix_us()), heads)


def _check_policy(paths: MirrorPaths, policy: bytes, origin: str) -> None:
    parsed, before = (
        parse_policy(policy),
        parse_policy(read_limited(paths.ledger.policy, POLICY_BYTES_MAX)),
    )
    if log_origin(policy) != origin:
        raise MalformedError(f"the policy is of the log {log_origin(policy)}, not of {origin}")
    keys = {str(log.verifier) for log in parsed.logs}
    missing = [str(log.verifier) for log in before.logs if str(log.verifier) not in keys]
    if missing:
        raise MalformedError(
            f"the policy lacks the log's old key {missing[0]}: clients could not go on from the "
            "heads that they have accepted. Leave it out later, when they have accepted a new one"
        )
    own = set(cosigner_keys(paths))
    if any(str(witness.verifier) in own for witness in parsed.witnesses):
        raise MalformedError(
            "the policy names this mirror's own key as a witness, and a ledger can't be its own "
            "witness: give a policy without it (--policy)"
        )


def cosigner_keys(paths: MirrorPaths) -> tuple[str, ...]:
    """The verifier keys of the mirror itself."""
    with closing(HeadStore.open(WitnessPaths(paths.cosigner).heads)) as heads:
        return heads.vkeys()


def _own_signer(paths: MirrorPaths, origin: str, make_seed: Callable[[], bytes]) -> LogSigner:
    """The key of the new ledger; that of a promotion that was interrupted, if there is one."""
    if not paths.ledger.key.exists():
        write_keys(paths.ledger.key, [Signer.generate(origin, seed=make_seed()).key])
    return read_signers(paths.ledger)[0]


def _enqueue_event(paths: MirrorPaths, record: PromotionRecord) -> None:
    """Put the event of the promotion into the outbox; the same event when it is put twice."""
    unix_us = paths.ledger.key.stat().st_mtime_ns // _US_PER_NS
    random = sha256(record.verifier_key.encode()).digest()[:UUID7_RANDOM_BYTES]
    event = operator_event(
        "ledger.mirror.promoted", unix_us, context=msgspec.to_builtins(record), random=random
    )
    with closing(open_tokens(paths.ledger)) as access:
        access.enqueue(event)
