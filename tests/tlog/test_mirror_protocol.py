"""The messages of a mirror are read as they arrive, and decided by the rules."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import leaf_hashes
from ledger_core.tlog.mirror import (
    EXCESS_ENTRIES_MAX,
    TICKET_BYTES_MAX,
    Conflict,
    MirroredState,
    MirrorInfo,
    Package,
    Upload,
    UploadDecoder,
    check_package,
    encode_package,
    encode_upload,
    format_mirror_info,
    package_ranges,
    parse_mirror_info,
    resolve_upload,
)
from ledger_core.tlog.note import Signer
from ledger_core.tlog.witness import Refused
from tests.tlog.oracle import Oracle

ORIGIN = "example.com/log"
LOG = Signer.generate(ORIGIN, seed=b"l" * 32)
LEAVES = [b"entry %d" % index for index in range(1100)]
TREE = Oracle(LEAVES)


def head(size: int, root_hash: bytes | None = None) -> SignedCheckpoint:
    checkpoint = Checkpoint(ORIGIN, size, root_hash or TREE.root(size))
    return SignedCheckpoint(checkpoint, (LOG.sign(format_checkpoint(checkpoint)),))


def packages(start: int, end: int) -> list[Package]:
    return [
        Package(
            first,
            tuple(LEAVES[first:stop]),
            tuple(TREE.subtree_consistency(first - first % 256, stop, end)),
        )
        for first, stop in package_ranges(start, end)
    ]


def body(upload: Upload, sent: Sequence[Package]) -> bytes:
    return b"".join([encode_upload(upload), *map(encode_package, sent)])


def test_the_packages_of_an_upload_end_at_multiples_of_256() -> None:
    assert list(package_ranges(700, 1100)) == [(700, 768), (768, 1024), (1024, 1100)]
    assert list(package_ranges(256, 512)) == [(256, 512)]
    assert list(package_ranges(300, 310)) == [(300, 310)]
    assert list(package_ranges(5, 5)) == []


@given(st.data())
def test_a_body_comes_out_the_same_in_whatever_pieces_it_arrives(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, 1100))
    end = data.draw(st.integers(start, 1100))
    upload = Upload(ORIGIN, start, end, data.draw(st.binary(max_size=300)))
    sent = packages(start, end)
    whole = body(upload, sent)
    found: list[Package] = []
    decoder, position = UploadDecoder(), 0
    while position < len(whole):
        size = data.draw(st.integers(1, 9_000))
        found += decoder.feed(whole[position : position + size])
        position += size
    assert (decoder.upload, found, decoder.decoded_bytes) == (upload, sent, len(whole))
    with pytest.raises(MalformedError, match="bytes follow"):
        list(decoder.feed(b"x"))


def test_a_body_that_is_cut_short_gives_the_packages_before() -> None:
    whole = body(Upload(ORIGIN, 700, 1100), packages(700, 1100))
    decoder = UploadDecoder()
    found = list(decoder.feed(whole[:-1]))
    assert found == packages(700, 1100)[:2]
    assert decoder.decoded_bytes == len(body(Upload(ORIGIN, 700, 1100), found))


def test_a_body_of_no_upload_is_refused() -> None:
    good = encode_upload(Upload(ORIGIN, 3, 5, b"t"))
    for bad, reason in (
        (b"\x00\x00" + good[2 + len(ORIGIN) :], "a line of a checkpoint is empty"),
        (good.replace(b"example", b"ex\xffmple"), "not UTF-8"),
        (good.replace(b"\x05\x00\x01", b"\x02\x00\x01"), "not a range of entries"),
        (good.replace(b"\x00" * 7 + b"\x05", b"\xff" * 7 + b"\x05"), "not a range of entries"),
        (good + b"\x00\x00" * 2 + b"\x40", "at most 63 hashes, got 64"),
    ):
        with pytest.raises(MalformedError, match=reason):
            list(UploadDecoder().feed(bad))


def test_the_packages_before_a_fault_are_given_first() -> None:
    sent = packages(0, 700)
    whole = body(Upload(ORIGIN, 0, 700), sent)
    second = len(body(Upload(ORIGIN, 0, 700), sent[:2]))
    bad = bytearray(whole)
    bad[second - 1 - 32 * len(sent[1].proof)] = 64
    found: list[Package] = []
    with pytest.raises(MalformedError, match="at most 63 hashes, got 64"):
        found.extend(UploadDecoder().feed(bytes(bad)))
    assert found == sent[:1]


def test_what_no_message_can_have_is_not_made() -> None:
    with pytest.raises(ValueError, match="not a range"):
        Upload(ORIGIN, 5, 3)
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        Upload(ORIGIN, 3, 5, bytes(TICKET_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="are no package"):
        Package(250, (b"",) * 7, ())
    with pytest.raises(ValueError, match="are no package"):
        Package(250, (), ())
    with pytest.raises(ValueError, match="at most 63 hashes"):
        Package(0, (b"",), (bytes(32),) * 64)


@given(st.data())
def test_a_package_is_taken_for_its_own_place_alone(data: st.DataObject) -> None:
    end = data.draw(st.integers(1, 1100))
    start = data.draw(st.integers(0, end - 1))
    package = data.draw(st.sampled_from(packages(start, end)))
    before = TREE.leaf_hashes(package.bundle_start, package.start)
    checkpoint = head(end).checkpoint
    assert check_package(package, before, checkpoint) == leaf_hashes(package.entries)
    changed = list(package.entries)
    changed[data.draw(st.integers(0, len(changed) - 1))] += b"?"
    for bad in (
        Package(package.start, tuple(changed), package.proof),
        Package(package.start, package.entries[::-1], package.proof)
        if len(package.entries) > 1
        else Package(package.start, package.entries, (*package.proof, bytes(32))),
    ):
        with pytest.raises(VerificationError):
            check_package(bad, before, checkpoint)


@pytest.mark.parametrize(
    ("upload", "want"),
    [
        ((500, 900), 900),  # the pending checkpoint
        ((400, 900), 900),  # some entries again
        ((0, 900), 900),
        ((501, 900), (900, 500)),  # a gap
        ((400, 400), 400),  # the mirrored one again, for a fresh cosignature
        ((500, 600), 600),  # an earlier one, by its ticket
        ((500, 700), (900, 500)),  # never pending
        ((300, 399), (900, 500)),  # smaller than the mirrored one
    ],
)
def test_an_upload_is_resolved_by_its_ends(
    upload: tuple[int, int], want: int | tuple[int, int]
) -> None:
    state = MirroredState(head(900), head(400), next_entry=500)
    found = resolve_upload(Upload(ORIGIN, *upload), state, ticketed=head(600))
    if isinstance(want, int):
        assert found == head(want)
    else:
        assert found == Conflict(head(want[0]), want[1])


def test_an_upload_that_sends_too_much_again_is_a_conflict() -> None:
    far = EXCESS_ENTRIES_MAX + 1
    pending = head(2 * far, bytes(32))
    state = MirroredState(pending, None, next_entry=far)
    assert resolve_upload(Upload(ORIGIN, 0, 2 * far), state, ticketed=None) == Conflict(
        pending, far
    )
    assert resolve_upload(Upload(ORIGIN, 1, 2 * far), state, ticketed=None) == pending
    # Everything of the smaller checkpoint is there, so the client is sent on to the larger one.
    small = head(far - 1, bytes(32))
    late = MirroredState(pending, None, next_entry=far + EXCESS_ENTRIES_MAX)
    upload = Upload(ORIGIN, 0, far - 1)
    assert resolve_upload(upload, late, ticketed=small) == small
    state = MirroredState(pending, None, next_entry=far)
    assert resolve_upload(Upload(ORIGIN, far + 1, 2 * far), state, ticketed=None) == Conflict(
        pending, far
    )


def test_an_upload_without_a_log_or_a_checkpoint_is_refused() -> None:
    upload = Upload(ORIGIN, 0, 0)
    unknown = resolve_upload(upload, None, ticketed=None)
    early = resolve_upload(upload, MirroredState(None, None, 0), ticketed=head(0))
    assert isinstance(unknown, Refused)
    assert isinstance(early, Refused)
    assert (unknown.status, early.status) == (404, 422)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.binary(max_size=100))
def test_the_next_ends_come_out_as_they_were(size: int, next_entry: int, ticket: bytes) -> None:
    info = MirrorInfo(size, next_entry, ticket)
    assert parse_mirror_info(format_mirror_info(info).encode()) == info


@pytest.mark.parametrize(
    "text", ["", "1\n2\n", "1\n2\n\n\n", "1\n2\n\nx", "01\n2\n\n", "1\n-2\n\n", "1\n2\nA\n"]
)
def test_other_answers_are_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_mirror_info(text.encode())
