"""The plan that reads the heads that a log keeps, and checks them against the published one."""

from dataclasses import replace
from urllib.parse import urlencode

from ledger_client.messages import Plan, Request
from ledger_client.plans.heads import Heads
from ledger_client.responses import adding_evidence, decode_answer
from ledger_client.results import KeptHead
from ledger_core.api import KeptCheckpoint, KeptCheckpoints
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.text import parse_hash
from ledger_core.tlog.verify import check_consistency

PAGE_HEADS = 1000
_HEAD_BYTES_MAX = 1 << 16


def read_kept_heads(
    start: int, *, end: int | None, heads: Heads
) -> Plan[tuple[list[KeptHead], int | None]]:
    """Read some kept heads of the sizes [start, end), the smallest first; and where to go on.

    Raises: VerificationError for one that the log did not sign, or that the published head does
    not extend.
    """
    most = PAGE_HEADS if end is None else min(PAGE_HEADS, end - start)
    request = Request(
        target=f"/v1/checkpoints?{urlencode({'from': start, 'limit': most})}",
        answer_bytes_max=(most + 1) * _HEAD_BYTES_MAX,
    )
    response = yield request
    answer = decode_answer(request, response, KeptCheckpoints)
    with adding_evidence(lambda: {"answer.json": response.body}):
        published = yield from heads.accept(answer.published)
        found: list[KeptHead] = []
        last = start - 1  # Also one from `end` on counts, or the next page could be this one again.
        for kept in answer.checkpoints:
            head = _check(kept, published, heads.policy)
            size = head.checkpoint.tree_size
            if size <= last:
                raise VerificationError(f"kept heads from size {start} on: got one of size {size}")
            last = size
            if end is None or size < end:
                found.append(head)
        if answer.next is not None and not answer.checkpoints:
            # Asked for again and again, such pages would never end.
            raise VerificationError(f"no kept head, and the next one has size {answer.next}")
        if answer.next is not None and answer.next <= last:
            raise VerificationError(f"the next kept head has size {answer.next}, after {last}")
    return found, answer.next


def check_kept(note: str, policy: Policy) -> KeptHead:
    """A head that the log signed, verified as far as its cosignatures meet the policy.

    Raises: VerificationError when the log did not sign it.
    """
    signed = replace(policy, quorum=None).check(note)
    try:
        head, missing = policy.check(note), None
    except VerificationError as error:
        head, missing = None, str(error)
    return KeptHead(checkpoint=signed.checkpoint, note=signed.note, head=head, missing=missing)


def _check(kept: KeptCheckpoint, published: VerifiedHead, policy: Policy) -> KeptHead:
    head = check_kept(kept.checkpoint, policy)
    old, new = head.checkpoint, published.checkpoint
    if old.origin != new.origin:
        raise VerificationError(f"a kept head is one of {old.origin}, not of {new.origin}")
    check_consistency(
        old_size=old.tree_size,
        new_size=new.tree_size,
        proof=tuple(map(parse_hash, kept.hashes)),
        old_root=old.root_hash,
        new_root=new.root_hash,
    )
    return head
