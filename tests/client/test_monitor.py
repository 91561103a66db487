"""What a monitor makes of heads, entries and witnesses: bytes in, verdicts out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.tlog.checkpoint import Checkpoint
from ledger.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger.tlog.note import Note, format_note, parse_note
from ledger.tlog.policy import Policy, parse_policy
from ledger.tlog.tile import encode_bundle
from ledger_client import RejectedError
from ledger_client.exchange import Request, Response
from ledger_client.monitor import Monitor, Progress, Report, StaleError, WitnessSite
from ledger_client.rebuilding import Rebuilding, Rebuilt
from tests.client.hosts import (
    W1,
    W2,
    W3,
    Host,
    cosigned,
    entries,
    entry,
    event_id,
    quorum_policy,
)
from tests.client.trees import SmallLog

NOW = 1_764_036_500
STALE_S = 600.0

LOG = SmallLog(entries(1100))
FORK = SmallLog([*LOG.leaves[:300], *(entry(n, actor="u_2") for n in range(300, 1100))])
"""The same key, and another tree from entry 300 on."""


@dataclass
class Auditor:
    """A monitor and the host that it asks."""

    monitor: Monitor
    host: Host
    now: float = NOW

    def look(self) -> str | None:
        """One round, without witnesses."""
        remark = self.host.run(self.monitor.follow(self.now))
        while self.monitor.has_work:
            self.host.run(self.monitor.check_entries())
        return remark

    def compare(self, site: WitnessSite, note: str) -> str | None:
        """Be shown a head by a witness."""
        shown = Host(LOG)
        shown.lie = lambda _request, _response: Response(status=200, body=note.encode())
        head = shown.run(self.monitor.fetch_from(site))
        assert head is not None
        return self.host.run(self.monitor.compare(site, head, self.now))

    @property
    def report(self) -> Report:
        report = self.monitor.report
        assert report is not None
        return report

    @property
    def size(self) -> int:
        return self.report.head.checkpoint.tree_size

    @property
    def checked(self) -> int | None:
        return self.report.entries_checked

    @property
    def sites(self) -> tuple[WitnessSite, ...]:
        return self.monitor.sites

    def restarted(self, **changes: Any) -> "Auditor":
        """Another monitor that goes on from what this one keeps."""
        kept = {"anchor": self.monitor.latest_note, "progress": self.monitor.progress}
        return audit(self.host, policy=self.monitor._policy, **(kept | changes))


def audit(host: Host, *, policy: Policy | None = None, **changes: Any) -> Auditor:
    options: dict[str, Any] = {
        "anchor": None,
        "progress": Progress(),
        "is_reader": True,
        "is_patient": False,
        "stale_after_s": STALE_S,
    }
    return Auditor(Monitor(policy or LOG.policy, **(options | changes)), host)


def about(path: str, change: Callable[[bytes], bytes | None]) -> Callable[..., Response]:
    """A lie: the answers under a path are changed, or are 404 for None."""

    def lie(request: Request, response: Response) -> Response:
        if not request.target.startswith(path):
            return response
        body = change(response.body)
        if body is None:
            return Response(status=404, body=b'{"type":"/v1/problems#no-tile"}')
        return replace(response, body=body)

    return lie


def flipped(data: bytes, place: int) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def entry_targets(host: Host) -> list[str]:
    return [target for target in host.targets if target.startswith("/tile/entries/")]


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 513, 700, 1024, 1100])
def test_all_entries_of_a_log_are_checked_whatever_its_size(size: int) -> None:
    auditor = audit(Host(LOG, size))
    assert auditor.look() is None
    assert (auditor.size, auditor.checked) == (size, size)


@given(sizes=st.lists(st.integers(0, 1100), min_size=1, max_size=6).map(sorted), data=st.data())
def test_a_log_that_grows_is_checked_to_its_end_through_any_restarts(
    sizes: list[int], data: st.DataObject
) -> None:
    auditor = audit(Host(LOG, 0))
    for size in sizes:
        auditor.host.size = size
        if data.draw(st.booleans()):
            auditor = auditor.restarted()
        assert auditor.look() is None
        assert (auditor.size, auditor.checked) == (size, size)
    fetched = [target for target in entry_targets(auditor.host) if ".p/" not in target]
    assert len(fetched) == len(set(fetched)) == sizes[-1] // 256


def test_bundles_under_the_second_tile_of_level_1_are_checked() -> None:
    log = SmallLog(entries(65_536 + 300))
    auditor = audit(Host(log, 65_300), policy=log.policy)
    auditor.look()
    auditor = auditor.restarted()
    auditor.host.size = 65_536 + 300
    auditor.look()
    assert auditor.checked == 65_836
    altered = audit(Host(log), policy=log.policy, progress=Progress(rebuilt=Rebuilt()))
    altered.host.lie = about("/tile/entries/256", lambda body: flipped(body, -1))
    with pytest.raises(VerificationError, match="entry 65791 as it was served is not in the tree"):
        altered.look()


def test_a_restart_fetches_the_open_bundle_alone() -> None:
    auditor = audit(Host(LOG, 700))
    auditor.look()
    auditor.host.targets.clear()
    auditor = auditor.restarted()
    auditor.host.size = 760
    auditor.look()
    assert entry_targets(auditor.host) == ["/tile/entries/002.p/248"]
    assert auditor.monitor.progress.rebuilt.entries_checked == 760
    assert len(auditor.monitor.progress.rebuilt.hashes) == 1
    auditor.host.targets.clear()
    auditor.look()
    assert auditor.host.targets == ["/checkpoint"]


def test_without_a_token_heads_are_checked_and_no_tile_is_fetched() -> None:
    auditor = audit(Host(LOG, 600), is_reader=False)
    auditor.look()
    auditor.host.size = 700
    auditor.look()
    assert auditor.host.targets == [
        "/checkpoint",
        "/checkpoint",
        "/v1/proofs/consistency?from=600&to=700",
    ]
    assert (auditor.size, auditor.checked) == (700, None)


def test_of_a_log_that_grows_by_bundles_the_open_one_is_left_until_it_is_full() -> None:
    auditor = audit(Host(LOG, 300), is_patient=True)
    auditor.look()
    assert auditor.checked == 256
    auditor.host.size = 900
    auditor.look()
    assert auditor.checked == 768
    assert entry_targets(auditor.host) == [f"/tile/entries/00{index}" for index in range(3)]
    auditor.look()
    assert auditor.checked == 900
    assert entry_targets(auditor.host)[3:] == ["/tile/entries/003.p/132"]


def test_a_full_bundle_and_full_tiles_serve_where_partial_ones_were_deleted() -> None:
    auditor = audit(Host(LOG, 300))
    checkpoint = LOG.note(300).encode()
    auditor.host.size = 1100

    def frozen(request: Request, response: Response) -> Response:
        if request.target == "/checkpoint":
            return replace(response, body=checkpoint)
        if request.target in ("/tile/entries/001.p/44", "/tile/0/001.p/44"):
            return Response(status=404, body=b"")
        return response

    auditor.host.lie = frozen
    auditor.look()
    assert auditor.checked == 300
    assert entry_targets(auditor.host)[1:] == ["/tile/entries/001.p/44", "/tile/entries/001"]


@given(place=st.integers(0, 10**6), index=st.integers(0, 4))
def test_no_flipped_bit_of_any_bundle_is_overlooked(place: int, index: int) -> None:
    auditor = audit(Host(LOG))
    auditor.host.lie = about(f"/tile/entries/00{index}", lambda body: flipped(body, place))
    with pytest.raises(VerificationError) as caught:
        auditor.look()
    assert auditor.monitor.progress.rebuilt.entries_checked == 256 * index
    evidence = caught.value.evidence
    name = f"tile-entries-00{index}{'.p-76' if index == 4 else ''}.bin"
    true = encode_bundle(LOG.leaves[256 * index : 256 * index + 256])
    assert evidence[name] == flipped(true, place)
    assert evidence["checkpoint.note"] == LOG.note().encode()
    assert "tile-1-000.p-4.bin" in evidence


@given(place=st.integers(0, 10**6), which=st.sampled_from(["0/004.p/76", "1/000.p/4"]))
def test_no_flipped_bit_of_a_tile_is_overlooked(place: int, which: str) -> None:
    auditor = audit(Host(LOG))
    auditor.host.lie = about(f"/tile/{which}", lambda body: flipped(body, place))
    with pytest.raises(VerificationError, match="root hash") as caught:
        auditor.look()
    assert f"tile-{which.replace('/', '-')}.bin" in caught.value.evidence


def without_last(bundle: bytes) -> bytes:
    length = len(LOG.leaves[511]) + 2
    return bundle[:-length]


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("/tile/entries/001", lambda _: None, "withholds tile/entries/001, which its head of size"),
        ("/tile/entries/001", lambda _: b"", "tile/entries/001 is no bundle"),
        ("/tile/entries/001", lambda body: body[:-1], "tile/entries/001 is no bundle"),
        ("/tile/entries/001", without_last, "tile/entries/001 has 255 entries, want 256"),
        ("/tile/entries/001", lambda _: encode_bundle(LOG.leaves[:256]), "entry 256 as it was"),
        ("/tile/entries/004.p", lambda body: body[:-900], "tile/entries/004.p/76 "),
        ("/tile/1/000.p/4", lambda _: None, "withholds tile/1/000.p/4"),
        ("/tile/1/000.p/4", lambda body: body[:-32], "tile/1/000.p/4 has 96 bytes, want 128"),
        ("/tile/0/004", lambda _: b"", "tile/0/004.p/76 has 0 bytes"),
    ],
)
def test_what_a_log_withholds_or_alters_is_named(
    path: str, change: Callable[[bytes], bytes | None], said: str
) -> None:
    auditor = audit(Host(LOG))
    auditor.host.lie = about(path, change)
    with pytest.raises(VerificationError, match=said) as caught:
        auditor.look()
    assert caught.value.evidence["checkpoint.note"] == LOG.note().encode()


@pytest.mark.parametrize("status", [401, 404, 503, 200])
def test_who_was_found_out_is_not_saved_by_withholding_the_leaf_hashes(status: int) -> None:
    auditor = audit(Host(LOG))

    def lie(request: Request, response: Response) -> Response:
        if request.target == "/tile/entries/002":
            return replace(response, body=flipped(response.body, 5000))
        return Response(status=status, body=b"") if request.target == "/tile/0/002" else response

    auditor.host.lie = lie
    said = r"the entries \[512, 768\) as they were served are not in the tree"
    with pytest.raises(VerificationError, match=said) as caught:
        auditor.look()
    assert "tile-entries-002.bin" in caught.value.evidence


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_no_lie_of_the_log(status: int) -> None:
    auditor = audit(Host(LOG))

    def refuse(request: Request, response: Response) -> Response:
        is_entries = request.target.startswith("/tile/entries/")
        return Response(status=status, body=b"{}") if is_entries else response

    auditor.host.lie = refuse
    with pytest.raises(RejectedError):
        auditor.look()


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (b'{"event":{},"received":{},"v":1}', "the log committed to entry 300: not a leaf"),
        (entry(300).replace(b'"v":1', b'"v":2'), "the log committed to entry 300: not a leaf"),
        (entry(300) + b"\n", "entry 300: not a leaf: its bytes are not in canonical form"),
        (entry(300, at=298), "entry 300 was received at .*: the log's clock ran backwards"),
        (entry(300, id_=event_id(7)), "the entries 7 and 300 have the same id, "),
    ],
)
def test_what_no_honest_log_commits_to_is_found(leaf: bytes, said: str) -> None:
    log = SmallLog([*LOG.leaves[:300], leaf, *LOG.leaves[301:400]])
    auditor = audit(Host(log))
    with pytest.raises(VerificationError, match=said) as caught:
        auditor.look()
    assert leaf in caught.value.evidence["tile-entries-001.p-144.bin"]


def test_a_clock_that_stands_still_is_none_that_ran_backwards() -> None:
    log = SmallLog([*LOG.leaves[:300], entry(300, at=299), *LOG.leaves[301:400]])
    auditor = audit(Host(log))
    auditor.look()
    assert auditor.checked == 400


def test_a_clock_is_seen_to_run_backwards_across_a_restart_too() -> None:
    log = SmallLog([*LOG.leaves[:512], entry(512, at=0)])
    auditor = audit(Host(log, 512))
    auditor.look()
    auditor.host.size = 513
    with pytest.raises(VerificationError, match="entry 512 was received at"):
        auditor.restarted().look()


def test_only_so_many_ids_are_remembered() -> None:
    log = SmallLog([*entries(600), entry(600, id_=event_id(560)), entry(601, id_=event_id(7))])
    host = Host(log, 600)
    head = log.policy.check(log.note(600))
    rebuilding = Rebuilding(Rebuilt(), ids_max=100)
    while rebuilding.entries_checked < 600:
        host.run(rebuilding.check_next(head))
    host.size = 602
    with pytest.raises(VerificationError, match="the entries 560 and 600 have the same id"):
        host.run(rebuilding.check_next(log.policy.check(log.note(602))))
    other = SmallLog([*entries(600), entry(600, id_=event_id(7))])
    rebuilding = Rebuilding(Rebuilt(), ids_max=100)
    while rebuilding.entries_checked < 601:
        Host(other).run(rebuilding.check_next(other.policy.check(other.note())))


@pytest.mark.parametrize(
    "kept",
    [
        Rebuilt(size=256, hashes=(bytes(32),), entries_checked=300),
        Rebuilt(size=512, hashes=(LOG.leaf_hashes[0],), entries_checked=512),
    ],
)
def test_a_damaged_frontier_is_blamed_on_the_files_and_not_on_the_log(kept: Rebuilt) -> None:
    with pytest.raises(MalformedError, match="the files of the state were damaged"):
        audit(Host(LOG), progress=Progress(rebuilt=kept)).look()


@pytest.mark.parametrize(
    "kept",
    [
        Rebuilt(size=255, hashes=(bytes(32),) * 8, entries_checked=255),
        Rebuilt(size=256, hashes=(), entries_checked=256),
        Rebuilt(size=256, hashes=(bytes(31),), entries_checked=256),
        Rebuilt(size=256, hashes=(bytes(32),), entries_checked=512),
        Rebuilt(size=256, hashes=(bytes(32),), entries_checked=255),
        Rebuilt(size=-256, hashes=(), entries_checked=-256),
    ],
)
def test_what_can_not_be_a_frontier_is_refused(kept: Rebuilt) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says another thing
        audit(Host(LOG), progress=Progress(rebuilt=kept))


@pytest.mark.parametrize("is_reader", [True, False])
@pytest.mark.parametrize(("kept", "size"), [(600, 600), (600, 601), (601, 1100), (700, 600)])
def test_a_fork_is_found_by_its_heads_and_the_two_convict_the_log(
    kept: int, size: int, is_reader: bool
) -> None:
    auditor = audit(Host(LOG, kept), is_reader=is_reader)
    auditor.look()
    progress = auditor.monitor.progress
    auditor.host = Host(FORK, size)
    with pytest.raises(VerificationError, match="the log forked or was rewritten") as caught:
        auditor.look()
    assert caught.value.evidence["accepted.note"] == LOG.note(kept).encode()
    assert caught.value.evidence["offered.note"] == FORK.note(size).encode()
    assert ("proof.txt" in caught.value.evidence) == (kept < size)
    assert auditor.monitor.latest_note == LOG.note(kept)
    assert auditor.monitor.progress == progress


def test_a_log_that_refuses_a_proof_of_its_next_head_is_not_believed() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.look()
    auditor.host.size = 700
    auditor.host.lie = about("/v1/proofs/consistency", lambda _: None)
    with pytest.raises(VerificationError, match="has no proof between them") as caught:
        auditor.look()
    assert set(caught.value.evidence) == {"accepted.note", "offered.note"}


def test_a_log_that_shrank_can_not_prove_what_it_lost() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.look()
    auditor.host.size = 500
    with pytest.raises(VerificationError, match=r"it shrank, ") as caught:
        auditor.look()
    assert caught.value.evidence["offered.note"] == LOG.note(500).encode()


def test_an_old_head_shown_again_by_a_log_that_kept_its_entries_is_only_odd() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.look()
    old = LOG.note(500).encode()
    auditor.host.lie = about("/checkpoint", lambda _: old)
    assert auditor.look() == "it showed a head of size 500 again, after one of 600"
    assert (auditor.size, auditor.checked) == (600, 600)


def unsigned(note: str) -> str:
    stranger = SmallLog([], key="another key").signer
    parsed = parse_note(note)
    return format_note(Note(parsed.text, (stranger.sign(parsed.text),)))


def with_bad_signature(note: str) -> str:
    lines = note.splitlines(keepends=True)
    return "".join([*lines[:1], "599\n", *lines[2:]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unsigned, "did not sign its checkpoint|no signature"),
        (with_bad_signature, "signature"),
        (lambda note: note.replace("example.com/audit", "example.com/other"), "no log of the"),
    ],
)
def test_a_head_that_the_log_did_not_sign_is_kept_as_evidence(
    change: Callable[[str], str], said: str
) -> None:
    auditor = audit(Host(LOG, 600))
    auditor.look()
    note = change(LOG.note(600))
    auditor.host.lie = about("/checkpoint", lambda _: note.encode())
    with pytest.raises(VerificationError, match=said) as caught:
        auditor.look()
    assert caught.value.evidence == {"offered.note": note.encode()}


def test_a_checkpoint_that_is_none_is_malformed_and_a_refused_one_is_asked_for_again() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.host.lie = about("/checkpoint", lambda _: b"<html>")
    with pytest.raises(MalformedError):
        auditor.look()
    auditor.host.lie = about("/checkpoint", lambda _: None)
    with pytest.raises(UnavailableError, match="/checkpoint: status 404"):
        auditor.look()
    auditor.host.lie = lambda _request, _response: Response(status=403, body=b"")
    with pytest.raises(UnavailableError, match="no checkpoint"):
        auditor.look()


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
        auditor = audit(host, policy=quorum_policy(LOG), is_patient=True)
        auditor.look()
        return auditor

    def test_a_head_says_who_cosigned_it_and_when(self, auditor: Auditor) -> None:
        assert auditor.report.head.cosignatures == (("w1", NOW - 5), ("w2", NOW - 4))
        auditor.host.cosigners = [(W1, NOW - 5), (W2, NOW - 4), (W3, NOW)]
        before = auditor.report
        auditor.look()
        assert auditor.report != before

    def test_a_missing_quorum_is_the_end_and_its_head_is_kept(self, auditor: Auditor) -> None:
        auditor.host.cosigners = [(W1, NOW)]
        auditor.host.size = 700
        with pytest.raises(VerificationError, match="1 of 2 needed, missing w2, w3") as caught:
            auditor.look()
        assert caught.value.evidence == {"offered.note": auditor.host.note().encode()}

    def test_two_keys_at_one_address_are_one_witness(self) -> None:
        text = (
            f"log {LOG.signer.verifier}\nwitness a {W1.verifier} https://w.example/\n"
            f"witness b {W2.verifier} https://w.example\nwitness c {W3.verifier}\nquorum none\n"
        )
        auditor = audit(Host(LOG, 600), policy=parse_policy(text.encode()))
        (site,) = auditor.sites
        assert site.url == "https://w.example"
        auditor.look()
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
            auditor.look()

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
        auditor.look()
        auditor.host.size = 720
        auditor.look()
        assert auditor.size == 720
        auditor.now += 2 * STALE_S
        auditor.look()

    def test_a_log_that_stays_behind_its_witness_is_not_waited_for_longer_than_for_fresh_word(
        self, auditor: Auditor
    ) -> None:
        note = cosigned(LOG.note(700), (W1, NOW))
        assert auditor.compare(auditor.sites[0], note) is not None
        auditor.now += STALE_S
        auditor.look()
        auditor.now += 1
        with pytest.raises(VerificationError, match=r"w1.example shows: .* has no proof") as caught:
            auditor.look()
        assert caught.value.evidence["offered.note"] == note.encode()

    def test_a_fork_behind_its_witness_is_found_when_it_has_grown(self, auditor: Auditor) -> None:
        note = cosigned(FORK.note(700), (W1, NOW))
        assert auditor.compare(auditor.sites[0], note) is not None
        auditor.host.size = 700
        with pytest.raises(VerificationError, match="two roots at size 700") as caught:
            auditor.look()
        assert caught.value.evidence["offered.note"] == note.encode()

    def test_who_looks_once_waits_for_no_proof(self, auditor: Auditor) -> None:
        auditor = auditor.restarted(is_patient=False)
        auditor.look()
        with pytest.raises(VerificationError, match="has no proof between them"):
            auditor.compare(auditor.sites[0], cosigned(LOG.note(700), (W1, NOW)))

    @pytest.mark.parametrize(
        ("note", "said"),
        [
            (LOG.note(600), "the quorum is not met"),
            (cosigned(LOG.note(600), (W2, NOW)), "the quorum is not met"),
            (cosigned(unsigned(LOG.note(600)), (W1, NOW)), "did not sign its checkpoint"),
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
        assert host.run(auditor.monitor.fetch_from(auditor.sites[1])) is None
        origin_hash = "f02bc92b2809f8bbe828f66916118479fb7c13f7e29bd56008fd0946371303ca"
        assert host.targets == [f"/{origin_hash}/checkpoint"]
        host.lie = lambda _request, _response: Response(status=403, body=b"no")
        with pytest.raises(UnavailableError):
            host.run(auditor.monitor.fetch_from(auditor.sites[1]))

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
        auditor.look()
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
            auditor.look()
            auditor.monitor.check_fresh(auditor.now)
        auditor.now += 601
        with pytest.raises(StaleError):
            auditor.monitor.check_fresh(auditor.now)


def test_without_a_quorum_fresh_is_a_log_that_grows() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.look()
    auditor.now += 600
    auditor.look()
    auditor.monitor.check_fresh(auditor.now)
    auditor.host.size = 601
    auditor.look()
    auditor.now += 600
    auditor = auditor.restarted()
    auditor.now = NOW + 1200
    auditor.look()
    auditor.monitor.check_fresh(auditor.now)
    with pytest.raises(StaleError, match="has not grown beyond 601 for 601 s, want fresh word"):
        auditor.monitor.check_fresh(auditor.now + 1)


def test_word_that_is_never_stale_may_be_asked_for() -> None:
    auditor = audit(Host(LOG, 600), stale_after_s=0)
    auditor.look()
    auditor.monitor.check_fresh(NOW + 10**9)


def test_a_log_that_was_never_seen_is_stale_once_it_was_asked_for_long_enough() -> None:
    auditor = audit(Host(LOG))
    auditor.monitor.check_fresh(NOW, unanswered_since_unix_s=NOW - 600)
    with pytest.raises(StaleError, match="no head of size 0 or more was seen for 601 s"):
        auditor.monitor.check_fresh(NOW, unanswered_since_unix_s=NOW - 601)


def test_a_monitor_that_was_off_does_not_blame_the_log_for_that() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.look()
    auditor = auditor.restarted()
    day_later = NOW + 86_400
    auditor.monitor.check_fresh(day_later, unanswered_since_unix_s=day_later - 600)
    with pytest.raises(StaleError, match="no head of size 600 or more"):
        auditor.monitor.check_fresh(day_later, unanswered_since_unix_s=day_later - 601)


def test_fresh_heads_do_not_make_up_for_questions_that_are_left_unanswered() -> None:
    auditor = audit(Host(LOG, 600))
    auditor.look()
    auditor.now += 700
    auditor.host.size = 700
    auditor.look()
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
        audit(Host(LOG, 3), anchor=LOG.sign(text)).look()
