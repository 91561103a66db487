"""An older head than the one that was accepted before is reported, and no error."""

import pytest

from ledger_client import OlderHeadError, OlderHeadWarning
from ledger_client.base_client import BaseClient
from ledger_client.cli.app import EXIT_STALE, _exit_code
from ledger_client.messages import Request, Response
from ledger_client.plans.heads import Heads
from ledger_client.retry import retried_failure
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.trust import TrustedLog
from tests.client.hosts import Host
from tests.client.trees import SmallLog, numbered

LOG = SmallLog(numbered(30))


def frozen(size: int) -> Host:
    """A host that has all entries and proofs, and publishes an old head."""
    host = Host(LOG)

    def lie(request: Request, response: Response) -> Response:
        if request.target == "/checkpoint":
            return Response(status=200, body=LOG.note(size).encode())
        return response

    host.lie = lie
    return host


def heads(anchor: int | None = None) -> Heads:
    note = None if anchor is None else LOG.note(anchor)
    return Heads(TrustedLog(LOG.policy, anchor=note))


def size_of(head: VerifiedHead | None) -> int:
    assert head is not None
    return head.checkpoint.tree_size


@pytest.mark.parametrize("is_remembered", [True, False])
def test_a_published_head_that_is_older_is_reported_once(is_remembered: bool) -> None:
    known = heads(30 if is_remembered else None)
    if not is_remembered:
        assert size_of(frozen(30).run(known.checkpoint())) == 30
    assert known.take_older() is None
    assert size_of(frozen(20).run(known.checkpoint())) == 20
    assert size_of(known.latest) == 30
    message = known.take_older()
    assert message is not None
    assert "size 20, older than the head of size 30" in message
    assert known.take_older() is None
    frozen(30).run(known.checkpoint())
    assert known.take_older() is None


def test_a_proof_against_an_older_head_than_the_state_file_has_is_reported() -> None:
    for anchor, is_reported in ((30, True), (20, False), (None, False)):
        known = heads(anchor)
        proof = LOG.proof(4, 20)
        head = frozen(20).run(known.check_proof(proof, leaf_hash=LOG.leaf_hashes[4]))
        assert size_of(head) == 20
        assert (known.take_older() is not None) == is_reported


def test_a_proof_in_the_tree_that_was_asked_for_is_not_reported() -> None:
    known = heads(30)
    plan = known.check_proof(LOG.proof(4, 20), leaf_hash=LOG.leaf_hashes[4], is_size_asked=True)
    frozen(20).run(plan)
    assert known.take_older() is None


def test_a_client_warns_of_an_older_head() -> None:
    client = BaseClient(
        "http://127.0.0.1:1",
        None,
        policy=LOG.policy,
        state=None,
        timeout_s=1.0,
        mask=None,
        insecure=False,
    )
    client.warn_of_older_head()
    for size in (30, 20):
        frozen(size).run(client.required_heads().checkpoint())
    with pytest.warns(OlderHeadWarning, match="withheld, or not published yet"):
        client.warn_of_older_head()


def test_a_head_that_does_not_extend_an_older_one_is_stale_not_false() -> None:
    with pytest.raises(OlderHeadError, match="size 20 does not extend that of size 30") as caught:
        frozen(20).run(heads().consistency(LOG.note(30), None))
    assert _exit_code(caught.value) == EXIT_STALE


def test_the_detail_of_a_problem_reaches_the_person() -> None:
    body = b'{"type":"/v1/problems#not-yet-published","detail":"no checkpoint of size 9 yet"}'
    failure = retried_failure(Response(status=503, body=body), unix_s=0.0)
    assert str(failure) == "status 503: no checkpoint of size 9 yet"
    assert str(retried_failure(Response(status=503, body=b"<html>"), unix_s=0.0)) == "status 503"
