"""Every entry is checked against the tree that it makes, and what is wrong with one is named."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_client import RejectedError
from ledger_client.audit.monitor import Progress
from ledger_client.audit.tree_replay import ReplayState, TreeReplay
from ledger_client.messages import Request, Response
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.tile import encode_bundle
from tests.client.auditing import (
    LOG,
    about,
    audit,
)
from tests.client.hosts import (
    Host,
    entries,
    entry,
    event_id,
)
from tests.client.trees import SmallLog


def flipped(data: bytes, place: int) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def entry_targets(host: Host) -> list[str]:
    return [target for target in host.targets if target.startswith("/tile/entries/")]


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 513, 700, 1024, 1100])
def test_all_entries_of_a_log_are_checked_whatever_its_size(size: int) -> None:
    auditor = audit(Host(LOG, size))
    assert auditor.run_round() is None
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
        assert auditor.run_round() is None
        assert (auditor.size, auditor.checked) == (size, size)
    fetched = [target for target in entry_targets(auditor.host) if ".p/" not in target]
    assert len(fetched) == len(set(fetched)) == sizes[-1] // 256


def test_bundles_under_the_second_tile_of_level_1_are_checked() -> None:
    log = SmallLog(entries(65_536 + 300))
    auditor = audit(Host(log, 65_300), policy=log.policy)
    auditor.run_round()
    auditor = auditor.restarted()
    auditor.host.size = 65_536 + 300
    auditor.run_round()
    assert auditor.checked == 65_836
    altered = audit(Host(log), policy=log.policy)
    altered.host.lie = about("/tile/entries/256", lambda body: flipped(body, -1))
    with pytest.raises(VerificationError, match="entry 65791 as it was served is not in the tree"):
        altered.run_round()


def test_a_restart_fetches_the_open_bundle_alone() -> None:
    auditor = audit(Host(LOG, 700))
    auditor.run_round()
    auditor.host.targets.clear()
    auditor = auditor.restarted()
    auditor.host.size = 760
    auditor.run_round()
    assert entry_targets(auditor.host) == ["/tile/entries/002.p/248"]
    assert auditor.monitor.progress.rebuilt.entries_checked == 760
    assert len(auditor.monitor.progress.rebuilt.hashes) == 1
    auditor.host.targets.clear()
    auditor.run_round()
    assert auditor.host.targets == ["/checkpoint"]


def test_without_a_token_heads_are_checked_and_no_tile_is_fetched() -> None:
    auditor = audit(Host(LOG, 600), is_reader=False)
    auditor.run_round()
    auditor.host.size = 700
    auditor.run_round()
    assert auditor.host.targets == [
        "/checkpoint",
        "/checkpoint",
        "/v1/proofs/consistency?from=600&to=700",
    ]
    assert (auditor.size, auditor.checked) == (700, None)


def test_of_a_log_that_grows_by_bundles_the_open_one_is_left_until_it_is_full() -> None:
    auditor = audit(Host(LOG, 300), is_polling=True)
    auditor.run_round()
    assert auditor.checked == 256
    auditor.host.size = 900
    auditor.run_round()
    assert auditor.checked == 768
    assert entry_targets(auditor.host) == [f"/tile/entries/00{index}" for index in range(3)]
    auditor.run_round()
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
    auditor.run_round()
    assert auditor.checked == 300
    assert entry_targets(auditor.host)[1:] == ["/tile/entries/001.p/44", "/tile/entries/001"]


@given(place=st.integers(0, 10**6), index=st.integers(0, 4))
def test_no_flipped_bit_of_any_bundle_is_overlooked(place: int, index: int) -> None:
    auditor = audit(Host(LOG))
    auditor.host.lie = about(f"/tile/entries/00{index}", lambda body: flipped(body, place))
    with pytest.raises(VerificationError) as caught:
        auditor.run_round()
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
        auditor.run_round()
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
        auditor.run_round()
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
        auditor.run_round()
    assert "tile-entries-002.bin" in caught.value.evidence


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_no_lie_of_the_log(status: int) -> None:
    auditor = audit(Host(LOG))

    def refuse(request: Request, response: Response) -> Response:
        is_entries = request.target.startswith("/tile/entries/")
        return Response(status=status, body=b"{}") if is_entries else response

    auditor.host.lie = refuse
    with pytest.raises(RejectedError):
        auditor.run_round()


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
        auditor.run_round()
    assert leaf in caught.value.evidence["tile-entries-001.p-144.bin"]


def test_a_clock_that_stands_still_is_none_that_ran_backwards() -> None:
    log = SmallLog([*LOG.leaves[:300], entry(300, at=299), *LOG.leaves[301:400]])
    auditor = audit(Host(log))
    auditor.run_round()
    assert auditor.checked == 400


def test_a_clock_is_seen_to_run_backwards_across_a_restart_too() -> None:
    log = SmallLog([*LOG.leaves[:512], entry(512, at=0)])
    auditor = audit(Host(log, 512))
    auditor.run_round()
    auditor.host.size = 513
    with pytest.raises(VerificationError, match="entry 512 was received at"):
        auditor.restarted().run_round()


def test_two_tenants_may_use_one_id() -> None:
    theirs = entry(300, id_=event_id(7)).replace(b'"time":"', b'"tenant":"acme","time":"', 1)
    log = SmallLog([*LOG.leaves[:300], theirs, *LOG.leaves[301:400]])
    auditor = audit(Host(log))
    auditor.run_round()
    assert auditor.checked == 400
    again = theirs.replace(b"u_1", b"u_2")
    log = SmallLog([*LOG.leaves[:300], theirs, again])
    with pytest.raises(VerificationError, match="the entries 300 and 301 have the same id"):
        audit(Host(log)).run_round()


def test_only_so_many_ids_are_remembered() -> None:
    log = SmallLog([*entries(600), entry(600, id_=event_id(560)), entry(601, id_=event_id(7))])
    host = Host(log, 600)
    head = log.policy.check(log.note(600))
    rebuilding = TreeReplay(ReplayState(), ids_max=100)
    while rebuilding.entries_checked < 600:
        host.run(rebuilding.check_next(head))
    host.size = 602
    with pytest.raises(VerificationError, match="the entries 560 and 600 have the same id"):
        host.run(rebuilding.check_next(log.policy.check(log.note(602))))
    other = SmallLog([*entries(600), entry(600, id_=event_id(7))])
    rebuilding = TreeReplay(ReplayState(), ids_max=100)
    while rebuilding.entries_checked < 601:
        Host(other).run(rebuilding.check_next(other.policy.check(other.note())))


@pytest.mark.parametrize(
    "kept",
    [
        ReplayState(size=256, hashes=(bytes(32),), entries_checked=300),
        ReplayState(size=512, hashes=(LOG.leaf_hashes[0],), entries_checked=512),
    ],
)
def test_a_damaged_frontier_is_blamed_on_the_files_and_not_on_the_log(kept: ReplayState) -> None:
    with pytest.raises(MalformedError, match="the files of the state were damaged"):
        audit(Host(LOG), progress=Progress(rebuilt=kept)).run_round()


@pytest.mark.parametrize(
    "kept",
    [
        ReplayState(size=255, hashes=(bytes(32),) * 8, entries_checked=255),
        ReplayState(size=256, hashes=(), entries_checked=256),
        ReplayState(size=256, hashes=(bytes(31),), entries_checked=256),
        ReplayState(size=256, hashes=(bytes(32),), entries_checked=512),
        ReplayState(size=256, hashes=(bytes(32),), entries_checked=255),
        ReplayState(size=-256, hashes=(), entries_checked=-256),
    ],
)
def test_what_can_not_be_a_frontier_is_refused(kept: ReplayState) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says another thing
        audit(Host(LOG), progress=Progress(rebuilt=kept))
