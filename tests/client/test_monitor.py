"""The monitor's verdicts about heads, witnesses and silence: bytes in, verdicts out."""

from collections.abc import Callable

import pytest

from ledger_client.audit.monitor import StaleError
from ledger_client.messages import Response
from ledger_core.tlog.checkpoint import Checkpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import parse_policy
from tests.client.auditing import (
    FORK,
    LOG,
    NOW,
    STALE_S,
    Auditor,
    about,
    audit,
    unsigned,
    with_bad_signature,
)
from tests.client.hosts import (
    W1,
    W2,
    W3,
    Host,
    cosigned,
    quorum_policy,
)
from tests.client.trees import SmallLog


@pytest.mark.parametrize("is_reader", [True, False])
@pytest.mark.parametrize(("kept", "size"), [(600, 600), (600, 601), (601, 1100), (700, 600)])
def test_a_fork_is_found_by_its_heads_and_the_two_convict_the_log(
    kept: int, size: int, is_reader: bool
) -> None:
    auditor = audit(Host(LOG, kept), is_reader=is_reader)
    auditor.run_round()
    progress = auditor.monitor.progress
    auditor.host = Host(FORK, size)
    with pytest.raises(VerificationError, match="the log forked or was rewritten") as caught:
        auditor.run_round()
    assert caught.value.evidence["accepted.note"] == LOG.note(kept).encode()
    assert caught.value.evidence["offered.note"] == FORK.note(size).encode()
    assert ("proof.txt" in caught.value.evidence) == (kept < size)
    assert auditor.monitor.latest_note == LOG.note(kept)
    assert auditor.monitor.progress == progress


def test_a_log_that_refuses_a_proof_of_its_next_head_is_not_believed() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.run_round()
    auditor.host.size = 700
    auditor.host.lie = about("/v1/proofs/consistency", lambda _: None)
    with pytest.raises(VerificationError, match="has no proof between them") as caught:
        auditor.run_round()
    assert set(caught.value.evidence) == {"accepted.note", "offered.note"}


def test_a_log_that_shrank_can_not_prove_what_it_lost() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.run_round()
    auditor.host.size = 500
    with pytest.raises(VerificationError, match=r"it shrank, ") as caught:
        auditor.run_round()
    assert caught.value.evidence["offered.note"] == LOG.note(500).encode()


def test_an_old_head_shown_again_by_a_log_that_kept_its_entries_is_only_odd() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.run_round()
    old = LOG.note(500).encode()
    auditor.host.lie = about("/checkpoint", lambda _: old)
    assert auditor.run_round() == "it showed a head of size 500 again, after one of 600"
    assert (auditor.size, auditor.checked) == (600, 600)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unsigned, "which the policy does not list|no signature"),
        (with_bad_signature, "signature"),
        (lambda note: note.replace("example.com/audit", "example.com/other"), "no log of the"),
    ],
)
def test_a_head_that_the_log_did_not_sign_is_kept_as_evidence(
    change: Callable[[str], str], said: str
) -> None:
    auditor = audit(Host(LOG, 600))
    auditor.run_round()
    note = change(LOG.note(600))
    auditor.host.lie = about("/checkpoint", lambda _: note.encode())
    with pytest.raises(VerificationError, match=said) as caught:
        auditor.run_round()
    assert caught.value.evidence == {
        "offered.note": note.encode(),
        "accepted.note": LOG.note(600).encode(),
    }


def test_a_checkpoint_that_is_none_is_malformed_and_a_refused_one_is_asked_for_again() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.host.lie = about("/checkpoint", lambda _: b"<html>")
    with pytest.raises(MalformedError):
        auditor.run_round()
    auditor.host.lie = about("/checkpoint", lambda _: None)
    with pytest.raises(UnavailableError, match="/checkpoint: status 404"):
        auditor.run_round()
    auditor.host.lie = lambda _request, _response: Response(status=403, body=b"")
    with pytest.raises(UnavailableError, match="no checkpoint"):
        auditor.run_round()


def test_a_policy_of_two_logs_is_refused() -> None:
    other = SmallLog([], key="another key", origin="example.com/other")
    lines = f"log {LOG.signer.verifier}\nlog {other.signer.verifier}\nquorum none\n"
    with pytest.raises(ValueError, match="the logs of one origin"):
        audit(Host(LOG), policy=parse_policy(lines.encode()))


class TestWitnesses:
    """Cosigned heads, and heads that witnesses show."""

    @pytest.fixture
    def auditor(self) -> Auditor:
        host = Host(LOG, 600)
        host.cosigners = [(W1, NOW - 5), (W2, NOW - 4)]
        auditor = audit(host, policy=quorum_policy(LOG), is_polling=True)
        auditor.run_round()
        return auditor

    def test_a_head_says_who_cosigned_it_and_when(self, auditor: Auditor) -> None:
        assert auditor.report.head.cosignatures == (("w1", NOW - 5), ("w2", NOW - 4))
        auditor.host.cosigners = [(W1, NOW - 5), (W2, NOW - 4), (W3, NOW)]
        before = auditor.report
        auditor.run_round()
        assert auditor.report != before

    def test_a_missing_quorum_is_the_end_and_its_head_is_kept(self, auditor: Auditor) -> None:
        auditor.host.cosigners = [(W1, NOW)]
        auditor.host.size = 700
        accepted = auditor.report.head.note.encode()
        with pytest.raises(VerificationError, match="1 of 2 needed, missing w2, w3") as caught:
            auditor.run_round()
        offered = auditor.host.note().encode()
        assert caught.value.evidence == {"accepted.note": accepted, "offered.note": offered}

    def test_two_keys_at_one_address_are_one_witness(self) -> None:
        text = (
            f"log {LOG.signer.verifier}\nwitness a {W1.verifier} https://w.example/\n"
            f"witness b {W2.verifier} https://w.example\nwitness c {W3.verifier}\nquorum none\n"
        )
        auditor = audit(Host(LOG, 600), policy=parse_policy(text.encode()))
        (site,) = auditor.sites
        assert site.url == "https://w.example"
        auditor.run_round()
        assert auditor.compare(site, cosigned(LOG.note(600), (W2, NOW))) is None
        with pytest.raises(VerificationError, match="0 of 1 needed, missing a, b"):
            auditor.compare(site, cosigned(LOG.note(600), (W3, NOW)))

    @pytest.mark.parametrize("size", [0, 1, 599, 600])
    def test_a_witness_that_is_not_ahead_is_compared_at_once(
        self, auditor: Auditor, size: int
    ) -> None:
        assert auditor.compare(auditor.sites[0], cosigned(LOG.note(size), (W1, NOW))) is None
        assert auditor.size == 600

    def test_a_witness_that_is_ahead_binds_what_the_log_publishes_next(
        self, auditor: Auditor
    ) -> None:
        # The log signed it, and has yet to publish it.
        auditor.host.size = 700
        assert auditor.compare(auditor.sites[0], cosigned(LOG.note(700), (W1, NOW))) is None
        assert auditor.size == 600
        auditor = auditor.restarted()
        auditor.host.size = 700
        auditor.host.log = FORK
        with pytest.raises(VerificationError, match="two roots at size 700"):
            auditor.run_round()

    @pytest.mark.parametrize("size", [301, 599, 600])
    def test_a_split_view_is_a_fork_with_both_heads(self, auditor: Auditor, size: int) -> None:
        note = cosigned(FORK.note(size), (W1, NOW))
        said = "a head that the witness at https://w1.example shows: the log forked"
        with pytest.raises(VerificationError, match=said) as caught:
            auditor.compare(auditor.sites[0], note)
        assert caught.value.evidence["offered.note"] == note.encode()
        assert caught.value.evidence["accepted.note"] == auditor.host.note().encode()

    def test_a_split_view_is_found_when_the_log_proves_the_witness_wrong(
        self, auditor: Auditor
    ) -> None:
        auditor.host.size = 700
        with pytest.raises(VerificationError, match="the log forked") as caught:
            auditor.compare(auditor.sites[0], cosigned(FORK.note(700), (W1, NOW)))
        assert "proof.txt" in caught.value.evidence

    def test_a_log_that_is_behind_its_witness_is_waited_for(self, auditor: Auditor) -> None:
        site = auditor.sites[0]
        remark = auditor.compare(site, cosigned(LOG.note(700), (W1, NOW)))
        assert remark is not None
        assert remark.startswith("it cosigned a head of size 700, which the log can't prove yet")
        auditor.run_round()
        auditor.host.size = 720
        auditor.run_round()
        assert auditor.size == 720
        auditor.now += 2 * STALE_S
        auditor.run_round()

    def test_a_log_that_stays_behind_its_witness_is_not_waited_for_longer_than_for_fresh_word(
        self, auditor: Auditor
    ) -> None:
        note = cosigned(LOG.note(700), (W1, NOW))
        assert auditor.compare(auditor.sites[0], note) is not None
        auditor.now += STALE_S
        auditor.run_round()
        auditor.now += 1
        with pytest.raises(VerificationError, match=r"w1.example shows: .* has no proof") as caught:
            auditor.run_round()
        assert caught.value.evidence["offered.note"] == note.encode()

    def test_a_clock_that_is_set_back_has_a_log_waited_for_no_longer(
        self, auditor: Auditor
    ) -> None:
        auditor.now += 10**8
        note = cosigned(LOG.note(700), (W1, NOW))
        assert auditor.compare(auditor.sites[0], note) is not None
        auditor.now -= 10**8
        auditor.run_round()
        auditor.now += STALE_S + 1
        with pytest.raises(VerificationError, match=r"w1.example shows: .* has no proof"):
            auditor.run_round()

    def test_a_fork_behind_its_witness_is_found_when_it_has_grown(self, auditor: Auditor) -> None:
        note = cosigned(FORK.note(700), (W1, NOW))
        assert auditor.compare(auditor.sites[0], note) is not None
        auditor.host.size = 700
        with pytest.raises(VerificationError, match="two roots at size 700") as caught:
            auditor.run_round()
        assert caught.value.evidence["offered.note"] == note.encode()

    def test_who_looks_once_waits_for_no_proof(self, auditor: Auditor) -> None:
        auditor = auditor.restarted(is_polling=False)
        auditor.run_round()
        with pytest.raises(VerificationError, match="has no proof between them"):
            auditor.compare(auditor.sites[0], cosigned(LOG.note(700), (W1, NOW)))

    @pytest.mark.parametrize(
        ("note", "said"),
        [
            (LOG.note(600), "the quorum is not met"),
            (cosigned(LOG.note(600), (W2, NOW)), "the quorum is not met"),
            (cosigned(unsigned(LOG.note(600)), (W1, NOW)), "which the policy does not list"),
            (with_bad_signature(cosigned(LOG.note(600), (W1, NOW))), "signature"),
        ],
    )
    def test_a_head_without_both_signatures_is_the_witness_s_own_lie(
        self, auditor: Auditor, note: str, said: str
    ) -> None:
        with pytest.raises(
            VerificationError,
            match=f"a head that the witness at https://w1.example shows: .*{said}",
        ) as caught:
            auditor.compare(auditor.sites[0], note)
        assert caught.value.evidence == {"witness.note": note.encode()}

    def test_a_witness_that_has_cosigned_nothing_and_one_that_refuses_say_nothing_of_the_log(
        self, auditor: Auditor
    ) -> None:
        host = Host(LOG)
        host.lie = lambda _request, _response: Response(status=404, body=b"nothing")
        assert host.run(auditor.monitor.fetch_witness_head(auditor.sites[1])) is None
        origin_hash = "f02bc92b2809f8bbe828f66916118479fb7c13f7e29bd56008fd0946371303ca"
        assert host.targets == [f"/{origin_hash}/checkpoint"]
        host.lie = lambda _request, _response: Response(status=403, body=b"no")
        with pytest.raises(UnavailableError):
            host.run(auditor.monitor.fetch_witness_head(auditor.sites[1]))

    @pytest.mark.parametrize(
        ("times", "is_fresh"),
        [
            ((NOW, NOW), True),
            ((NOW - 600, NOW - 600), True),
            ((NOW - 600, NOW - 601), False),
            ((NOW, NOW - 601), False),
            ((NOW, NOW - 601, NOW - 600), True),
            ((NOW - 10_000, NOW, NOW), True),
            ((NOW + 600, NOW), True),
            ((NOW + 601, NOW), False),
            ((NOW + 10**9, NOW + 10**9, NOW + 10**9), False),
        ],
    )
    def test_fresh_is_what_a_quorum_has_cosigned_lately(
        self, times: tuple[int, ...], is_fresh: bool
    ) -> None:
        host = Host(LOG, 600)
        host.cosigners = list(zip((W1, W2, W3), times, strict=False))
        auditor = audit(host, policy=quorum_policy(LOG))
        auditor.run_round()
        if is_fresh:
            auditor.monitor.check_fresh(NOW)
            return
        with pytest.raises(StaleError, match="no quorum of witnesses has stood by") as caught:
            auditor.monitor.check_fresh(NOW)
        assert caught.value.evidence == {"checkpoint.note": host.note().encode()}

    def test_an_idle_log_stays_fresh_while_its_head_is_cosigned_anew(
        self, auditor: Auditor
    ) -> None:
        for _ in range(5):
            auditor.now += 500
            now = int(auditor.now)
            auditor.host.cosigners = [(W1, now), (W3, now)]
            auditor.run_round()
            auditor.monitor.check_fresh(auditor.now)
        auditor.now += 601
        with pytest.raises(StaleError):
            auditor.monitor.check_fresh(auditor.now)


def test_without_a_quorum_fresh_is_a_log_that_grows() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.run_round()
    auditor.now += 600
    auditor.run_round()
    auditor.monitor.check_fresh(auditor.now)
    auditor.host.size = 601
    auditor.run_round()
    auditor.now += 600
    auditor = auditor.restarted()
    auditor.now = NOW + 1200
    auditor.run_round()
    auditor.monitor.check_fresh(auditor.now)
    with pytest.raises(StaleError, match="has not grown beyond 601 for 601 s, want a new head"):
        auditor.monitor.check_fresh(auditor.now + 1)


def test_a_clock_that_was_ahead_when_the_log_grew_keeps_it_fresh_no_longer() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.now = NOW + 10**8
    auditor.run_round()
    auditor.now = NOW
    auditor = auditor.restarted()
    auditor.now = NOW
    auditor.run_round()
    auditor.monitor.check_fresh(NOW)
    auditor.monitor.check_fresh(NOW + 600)
    with pytest.raises(StaleError, match="has not grown beyond 600"):
        auditor.monitor.check_fresh(NOW + 601)


def test_word_that_is_never_stale_may_be_asked_for() -> None:
    auditor = audit(Host(LOG, 600), stale_after_s=0)
    auditor.run_round()
    auditor.monitor.check_fresh(NOW + 10**9)


def test_a_log_that_was_never_seen_is_stale_once_it_was_asked_for_long_enough() -> None:
    auditor = audit(Host(LOG))
    auditor.monitor.check_fresh(NOW, unanswered_since_unix_s=NOW - 600)
    with pytest.raises(StaleError, match="no head of size 0 or more was seen for 601 s"):
        auditor.monitor.check_fresh(NOW, unanswered_since_unix_s=NOW - 601)


def test_a_monitor_that_was_off_does_not_blame_the_log_for_that() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.run_round()
    auditor = auditor.restarted()
    day_later = NOW + 86_400
    auditor.monitor.check_fresh(day_later, unanswered_since_unix_s=day_later - 600)
    with pytest.raises(StaleError, match="no head of size 600 or more"):
        auditor.monitor.check_fresh(day_later, unanswered_since_unix_s=day_later - 601)


def test_fresh_heads_do_not_make_up_for_questions_that_are_left_unanswered() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.run_round()
    auditor.now += 700
    auditor.host.size = 700
    auditor.run_round()
    auditor.monitor.check_fresh(auditor.now, unanswered_since_unix_s=auditor.now - 600)
    with pytest.raises(StaleError, match="left a question unanswered for 601 s") as caught:
        auditor.monitor.check_fresh(auditor.now, unanswered_since_unix_s=auditor.now - 601)
    assert caught.value.evidence == {"checkpoint.note": LOG.note(700).encode()}


def test_an_anchor_of_another_log_is_refused() -> None:
    other = SmallLog(LOG.leaves[:5], key="another key")
    with pytest.raises(VerificationError):
        audit(Host(LOG), anchor=other.note())
    text = Checkpoint("example.com/audit", 3, bytes(32))
    with pytest.raises(VerificationError, match="the log forked"):
        audit(Host(LOG, 3), anchor=LOG.sign(text)).run_round()
