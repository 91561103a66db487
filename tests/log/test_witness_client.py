"""The publisher among witnesses: good ones, bad ones, and ones that know another history."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from ledger.log.hold import HeldError
from ledger.log.publisher import Publisher
from ledger.log.sequencer import Sequencer
from ledger.log.witness_client import witness_intervals
from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.note import Signer, parse_note
from ledger_core.tlog.policy import Policy, format_policy, parse_policy
from ledger_core.tlog.witness import cosign, parse_add_checkpoint
from tests.log.scripted_witness import (
    TIME_UNIX_S,
    Behaviour,
    ScriptedWitness,
    around,
    endless,
    honest,
    says,
    serving,
    silent,
)
from tests.log.test_publisher import QUICK, running
from tests.store.entries import ORIGIN, SIGNER, entries, new_log, signed
from tests.waiting import until_async

WAIT_S = 60.0
QUORUM = "group q 2 w1 w2 w3\nquorum q\n"
STRANGER = "— stranger.example AAAAAAAA\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    new_log(tmp_path / "log").close()
    return tmp_path / "log"


def policy_of(witnesses: list[ScriptedWitness], quorum: str = QUORUM) -> Policy:
    lines = [
        f"witness w{number} {witness.vkey} {witness.url}/\n"
        for number, witness in enumerate(witnesses, 1)
    ]
    log = format_policy([SIGNER.verifier]).removesuffix("quorum none\n")
    return parse_policy((log + "".join(lines) + quorum).encode())


@asynccontextmanager
async def among(
    path: Path,
    witnesses: list[ScriptedWitness],
    *,
    timeout_s: float = WAIT_S,
    heartbeat_s: float = 180,
    intervals_s: Mapping[str, float] = MappingProxyType({}),
) -> AsyncIterator[tuple[Sequencer, Publisher, Policy]]:
    """A publisher that runs among witnesses."""
    async with serving(witnesses):
        policy = policy_of(witnesses)
        options = replace(
            QUICK,
            witness_timeout_s=timeout_s,
            heartbeat_s=heartbeat_s,
            witness_intervals_s=intervals_s,
        )
        async with running(path, policy=policy, options=options) as (sequencer, publisher):
            task = asyncio.create_task(publisher.run())
            await asyncio.sleep(0)
            try:
                yield sequencer, publisher, policy
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def three() -> list[ScriptedWitness]:
    return [ScriptedWitness(number, [SIGNER.verifier]) for number in (1, 2, 3)]


def error_of(publisher: Publisher, name: str) -> str | None:
    (status,) = [status for status in publisher.witnesses if status.names == (name,)]
    return status.error


@pytest.mark.anyio
async def test_every_published_head_has_its_quorum_and_late_cosignatures_are_added(
    path: Path,
) -> None:
    witnesses = three()
    async with among(path, witnesses) as (sequencer, publisher, policy):
        for start in range(0, 500, 50):
            await sequencer.append(entries(start, start + 50))
            published = await publisher.wait_for(start + 50, timeout_s=WAIT_S)
            assert published is not None
            assert len(policy.check(published.note).cosignatures) >= 2
        await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
        assert publisher.quorum_missing is None
        assert [status.cosigned_size for status in publisher.witnesses] == [500] * 3
        stored = sequencer._writer.store.published(500)
        assert stored == publisher.published


def _cosigners(policy: Policy, publisher: Publisher) -> dict[str, int]:
    assert publisher.published is not None
    return dict(policy.check(publisher.published.note).cosignatures)


@pytest.mark.anyio
async def test_witnesses_get_the_logs_own_signatures_only_and_sound_requests(path: Path) -> None:
    witnesses = three()
    async with among(path, witnesses) as (sequencer, publisher, _):
        for start in range(0, 60, 20):
            await sequencer.append(entries(start, start + 20))
            assert await publisher.wait_for(start + 20, timeout_s=WAIT_S)
    for witness in witnesses:
        for body in witness.bodies:
            request = parse_add_checkpoint(body)
            names = {line.name for line in request.signed.signatures}
            assert names == {SIGNER.verifier.name}


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (says(404, "who?"), "answered 404: who?"),
        (says(403), "answered 403"),
        (says(400), "answered 400"),
        (says(500, "\x1b[31moops\n"), "answered 500: [31moops"),
        (says(503), "answered 503"),
        (says(302, Location="http://127.0.0.1:1/"), "answered 302"),
        (says(200), "a bad answer"),
        (says(200, "junk\n"), "a bad answer"),
        (says(200, STRANGER.replace(" AAAA", " AA")), "a bad answer"),
        (says(200, STRANGER), "without a signature by a key"),
        (says(200, b"\x1f\x8b", **{"Content-Encoding": "gzip"}), "a bad answer"),
        (says(200, "x" * 70_000), "sent more than 65536 bytes"),
        (endless, "sent more than 65536 bytes"),
        (silent, "no answer in 0.3 s"),
        (around(after="\n"), "a bad answer"),
        (around(change=("\n", "\r\n")), "a bad answer"),
        (around(change=("— w1", "—  w1")), "a bad answer"),
        (says(409, "0\n"), "answered 409 to the size that it gave itself"),
        (says(409, "+5\n"), "a bad answer of 409"),
        (says(409, "05\n"), "a bad answer of 409"),
        (says(409, "5"), "a bad answer of 409"),
        (says(409, "٣\n"), "a bad answer of 409"),
        (says(409, "9223372036854775808\n"), "a bad answer of 409"),
    ],
)
@pytest.mark.anyio
async def test_a_bad_witness_is_named_and_holds_nobody_up(
    path: Path, behaviour: Behaviour, said: str
) -> None:
    witnesses = three()
    witnesses[0].behave = behaviour
    timeout_s = 0.3 if behaviour is silent else WAIT_S
    async with among(path, witnesses, timeout_s=timeout_s) as (sequencer, publisher, policy):
        for start in range(0, 40, 20):
            await sequencer.append(entries(start, start + 20))
            assert await publisher.wait_for(start + 20, timeout_s=WAIT_S)
        await until_async(lambda: said in str(error_of(publisher, "w1")))
        assert set(_cosigners(policy, publisher)) == {"w2", "w3"}
        assert publisher.failure is None
        # It comes to its senses, and is asked again.
        witnesses[0].behave = honest
        await sequencer.append(entries(40, 60))
        await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
        assert error_of(publisher, "w1") is None


@pytest.mark.anyio
async def test_unknown_signatures_beside_a_good_one_are_ignored_and_never_published(
    path: Path,
) -> None:
    witnesses = three()
    stranger = "— stranger.example AAAAAAAAAAA=\n"
    witnesses[0].behave = around(before=stranger, after=stranger)
    async with among(path, witnesses) as (sequencer, publisher, policy):
        await sequencer.append(entries(0, 20))
        await until_async(lambda: publisher.published and publisher.published.head.tree_size == 20)
        await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
        assert publisher.published is not None
        assert "stranger" not in publisher.published.note


@pytest.mark.anyio
async def test_a_bad_signature_under_a_known_key_condemns_the_answer(path: Path) -> None:
    witnesses = three()
    old: list[bytes] = []

    async def replay(
        witness: ScriptedWitness, request: web.Request, body: bytes
    ) -> web.StreamResponse:
        """The cosignature of the first head, for ever."""
        answer = await honest(witness, request, body)
        assert isinstance(answer, web.Response)
        old.append(answer.body if isinstance(answer.body, bytes) else b"")
        return web.Response(body=old[0])

    witnesses[0].behave = replay
    async with among(path, witnesses) as (sequencer, publisher, policy):
        for start in range(0, 40, 20):
            await sequencer.append(entries(start, start + 20))
            assert await publisher.wait_for(start + 20, timeout_s=WAIT_S)
        await until_async(lambda: error_of(publisher, "w1"))
        assert "a bad answer" in str(error_of(publisher, "w1"))
        assert set(_cosigners(policy, publisher)) == {"w2", "w3"}


@pytest.mark.anyio
async def test_a_size_in_a_409_is_used_once(path: Path) -> None:
    witnesses = three()
    async with among(path, witnesses) as (sequencer, publisher, policy):
        await sequencer.append(entries(0, 30))
        await until_async(lambda: publisher.published and len(_cosigners(policy, publisher)) == 3)
    # A new process remembers no sizes: the witnesses tell them.
    async with among(path, witnesses) as (sequencer, publisher, policy):
        await sequencer.append(entries(30, 50))
        assert await publisher.wait_for(50, timeout_s=WAIT_S)
        await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
        sizes = [parse_add_checkpoint(body).old_size for body in witnesses[0].bodies]
        assert 30 in sizes
        assert publisher.failure is None


@pytest.mark.anyio
async def test_a_witness_that_was_put_back_is_reported_also_after_a_restart(path: Path) -> None:
    witnesses = three()
    with capture_logs() as said:
        async with among(path, witnesses) as (sequencer, publisher, policy):
            await sequencer.append(entries(0, 20))
            assert await publisher.wait_for(20, timeout_s=WAIT_S)
            await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
            older = witnesses[0].known
            await sequencer.append(entries(20, 30))
            assert await publisher.wait_for(30, timeout_s=WAIT_S)
            await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
        witnesses[0].known = older
        async with among(path, witnesses) as (sequencer, publisher, policy):
            await sequencer.append(entries(30, 50))
            assert await publisher.wait_for(50, timeout_s=WAIT_S)
            await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
    told = [each for each in said if each["event"] == "witness_went_back"]
    assert [(each["cosigned_size"], each["known_size"]) for each in told] == [(30, 20)]


@pytest.mark.anyio
async def test_a_witness_that_lacks_the_published_head_has_not_gone_back_after_a_restart(
    path: Path,
) -> None:
    witnesses = three()
    witnesses[2].behave = says(500)
    with capture_logs() as said:
        async with among(path, witnesses) as (sequencer, publisher, policy):
            await sequencer.append(entries(0, 20))
            assert await publisher.wait_for(20, timeout_s=WAIT_S)
            await until_async(lambda: set(_cosigners(policy, publisher)) == {"w1", "w2"})
        asked = [len(witness.bodies) for witness in witnesses]
        witnesses[2].behave = honest
        async with among(path, witnesses) as (sequencer, publisher, policy):
            await sequencer.append(entries(20, 30))
            await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
    # Each is asked for a proof from what it cosigned, without a refusal before.
    first = [each.bodies[count] for each, count in zip(witnesses, asked, strict=True)]
    assert [parse_add_checkpoint(body).old_size for body in first] == [20, 20, 0]
    assert "witness_went_back" not in [each["event"] for each in said]


@pytest.mark.anyio
async def test_without_a_quorum_what_is_published_stays_and_appending_goes_on(path: Path) -> None:
    witnesses = three()
    async with among(path, witnesses, timeout_s=0.3) as (sequencer, publisher, _):
        await sequencer.append(entries(0, 20))
        assert await publisher.wait_for(20, timeout_s=WAIT_S)
        witnesses[0].behave = silent
        witnesses[1].behave = says(500)
        before = publisher.published
        for start in range(20, 520, 20):
            await sequencer.append(entries(start, start + 20))
        await until_async(lambda: publisher.quorum_missing)
        assert "missing w1, w2" in str(publisher.quorum_missing)
        assert before is not None
        assert publisher.published is not None
        assert publisher.published.head == before.head
        assert sequencer.head.tree_size == 520
        witnesses[0].behave = witnesses[1].behave = honest
        assert await publisher.wait_for(520, timeout_s=WAIT_S)
        assert publisher.quorum_missing is None


@pytest.mark.anyio
async def test_a_late_cosignature_of_an_older_head_is_not_stored(path: Path) -> None:
    witnesses = three()
    may_answer = asyncio.Event()

    async def late(
        witness: ScriptedWitness, request: web.Request, body: bytes
    ) -> web.StreamResponse:
        witness.behave = honest
        await may_answer.wait()
        return await honest(witness, request, body)

    witnesses[2].behave = late
    async with among(path, witnesses, timeout_s=WAIT_S) as (sequencer, publisher, policy):
        stored: list[int] = []
        store_checkpoint = sequencer.publish

        async def count(*, tree_size: int, note: str) -> None:
            stored.append(tree_size)
            await store_checkpoint(tree_size=tree_size, note=note)

        sequencer.publish = count  # type: ignore[method-assign]  # sees what is stored
        await sequencer.append(entries(0, 20))
        await sequencer.append(entries(20, 40))
        assert await publisher.wait_for(40, timeout_s=WAIT_S)
        stored.clear()
        may_answer.set()
        await until_async(lambda: publisher.witnesses[2].cosigned_size is not None)
        await sequencer.append(entries(40, 60))
        assert await publisher.wait_for(60, timeout_s=WAIT_S)
        await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
        assert set(stored) == {60}


@pytest.mark.anyio
async def test_an_unchanged_head_is_cosigned_anew_after_a_while(path: Path) -> None:
    witnesses = three()
    async with among(path, witnesses, heartbeat_s=0.05) as (sequencer, publisher, policy):
        await sequencer.append(entries(0, 20))
        assert await publisher.wait_for(20, timeout_s=WAIT_S)
        for witness in witnesses:
            witness.time_unix_s += 1000
        await until_async(lambda: min(_cosigners(policy, publisher).values()) > TIME_UNIX_S + 900)
        # What is shown is the time that clients see, not that of our clock.
        stated = [each.cosigned_at_unix_s for each in publisher.witnesses]
        assert stated == [witness.time_unix_s for witness in witnesses]
        assert publisher.published is not None
        assert publisher.published.head.tree_size == 20


LARGER, OTHER = signed(1000, bytes(32)).encode(), signed(10, bytes(32)).encode()
CLAIMS = [
    (says(409, "9000000000\n"), "knows size 9000000000, the log here has "),
    (says(422, "no"), "refuses the proof from size"),
]


@pytest.mark.parametrize(("behaviour", "said"), CLAIMS)
@pytest.mark.parametrize("shown", [LARGER, OTHER])
@pytest.mark.anyio
async def test_a_head_of_ours_that_the_store_lacks_stops_the_publisher_with_evidence(
    path: Path, behaviour: Behaviour, said: str, shown: bytes
) -> None:
    witnesses = three()
    async with among(path, witnesses, heartbeat_s=0.05) as (sequencer, publisher, _):
        await sequencer.append(entries(0, 20))
        assert await publisher.wait_for(20, timeout_s=WAIT_S)
        witnesses[1].shown = shown
        witnesses[1].behave = behaviour
        await until_async(lambda: publisher.failure)
        assert said in str(publisher.failure)
        with pytest.raises(VerificationError):
            await publisher.sign()
        # No index is given a second time, and what was published stays.
        with pytest.raises(HeldError, match=said):
            await sequencer.append(entries(30, 40))
        assert publisher.published is not None
        assert publisher.published.head.tree_size == 20

    (folder,) = (path.parent / "evidence").iterdir()
    assert (folder / "theirs").read_bytes() == shown
    assert said in (folder / "reason").read_text(encoding="utf-8")
    parse_note((folder / "ours").read_bytes())


STRANGER_KEY = Signer.generate(ORIGIN, seed=bytes(32))
NOT_OURS = {
    "nothing": b"",
    "junk": b"the head that it knows",
    "unsigned": LARGER.partition(b"\n\n")[0] + b"\n\n",
    "signed by a stranger": signed(1000, bytes(32), signer=STRANGER_KEY).encode(),
    "a head that the log has": signed(0, EMPTY_ROOT_HASH).encode(),
}


@pytest.mark.parametrize(("behaviour", "said"), CLAIMS)
@pytest.mark.parametrize("shown", NOT_OURS)
@pytest.mark.anyio
async def test_a_claim_that_proves_nothing_does_not_stop_a_quorum_without_that_witness(
    path: Path, behaviour: Behaviour, said: str, shown: str
) -> None:
    witnesses = three()
    liar = witnesses[1]
    liar.shown, liar.behave = NOT_OURS[shown], behaviour
    async with among(path, witnesses) as (sequencer, publisher, policy):
        for start in range(0, 200, 20):
            await sequencer.append(entries(start, start + 20))
            assert await publisher.wait_for(start + 20, timeout_s=WAIT_S)
        assert set(_cosigners(policy, publisher)) >= {"w1", "w3"}
        assert publisher.failure is None
        assert said in str(error_of(publisher, "w2"))
        # It is asked at longer and longer intervals, and counts again once it is honest.
        assert len(liar.bodies) < len(witnesses[0].bodies)
        liar.behave, liar.shown = honest, b""
        await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
    assert not (path.parent / "evidence").exists()


@pytest.mark.parametrize(("behaviour", "said"), CLAIMS)
@pytest.mark.anyio
async def test_another_ledger_of_this_origin_is_named_and_stops_nothing(
    path: Path, behaviour: Behaviour, said: str
) -> None:
    witnesses = three()
    theirs = parse_signed_checkpoint(signed(1000, bytes(32), signer=STRANGER_KEY))
    cosigned = cosign(theirs, [witnesses[1].signer], time_unix_s=TIME_UNIX_S)
    witnesses[1].shown, witnesses[1].behave = cosigned.note.encode(), behaviour
    async with among(path, witnesses) as (sequencer, publisher, _):
        await sequencer.append(entries(0, 20))
        assert await publisher.wait_for(20, timeout_s=WAIT_S)
        await until_async(lambda: error_of(publisher, "w2"))
        error = str(error_of(publisher, "w2"))
        assert said in error
        assert "size 1000 of this origin under a key that the policy here does not have" in error
        assert f"{STRANGER_KEY.verifier.name}+{STRANGER_KEY.verifier.key_id:08x}" in error
        assert publisher.failure is None


@pytest.mark.anyio
async def test_a_restored_backup_signs_nothing_that_anybody_sees(
    path: Path, tmp_path: Path
) -> None:
    witnesses = three()

    async def grow(where: Path, start: int) -> int:
        async with among(where, witnesses) as (sequencer, publisher, policy):
            await sequencer.append(entries(start, start + 50))
            await publisher.wait_for(start + 50, timeout_s=WAIT_S)
            await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
            return sequencer.head.tree_size

    await grow(path, 0)
    backup = tmp_path / "backup"
    backup.mkdir()
    (backup / "data.mdb").write_bytes((path / "data.mdb").read_bytes())
    assert await grow(path, 50) == 100

    async def restored() -> None:
        async with among(backup, witnesses) as (sequencer, publisher, _):
            await until_async(lambda: publisher.failure)
            assert "knows size 100, the log here has 50" in str(publisher.failure)
            with pytest.raises(HeldError, match="knows size 100, the log here has 50"):
                await sequencer.append(entries(500, 510))
            with pytest.raises(VerificationError):
                await publisher.sign()

    await restored()


@pytest.mark.parametrize("url", ["ftp://user:word@w.example/?k=KEY", "http://user:word@/?k=KEY"])
@pytest.mark.anyio
async def test_an_unusable_address_is_named_without_its_credentials(path: Path, url: str) -> None:
    text = format_policy([SIGNER.verifier]).removesuffix("quorum none\n")
    vkey = three()[0].vkey
    policy = parse_policy(f"{text}witness w1 {vkey} {url}\nquorum w1\n".encode())
    async with running(path, policy=policy, options=QUICK) as (_, publisher):
        task = asyncio.create_task(publisher.run())
        await until_async(lambda: publisher.witnesses and error_of(publisher, "w1"))
        said = str(error_of(publisher, "w1"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert "no usable address" in said
    assert not [secret for secret in ("word", "KEY") if secret in said]


@pytest.mark.anyio
async def test_a_witness_with_an_interval_is_asked_for_one_head_in_it(path: Path) -> None:
    witnesses = three()
    async with among(path, witnesses, intervals_s={"w3": 3600}) as (sequencer, publisher, _):
        for start in range(0, 100, 20):
            await sequencer.append(entries(start, start + 20))
            assert await publisher.wait_for(start + 20, timeout_s=WAIT_S)
        await until_async(lambda: publisher.witnesses[2].cosigned_size is not None)
        assert len(witnesses[2].bodies) == 1
        assert len(witnesses[0].bodies) >= 5
        assert publisher.quorum_missing is None


@pytest.mark.anyio
async def test_its_time_has_come_and_the_head_that_is_there_is_cosigned(path: Path) -> None:
    witnesses = three()
    async with among(path, witnesses, intervals_s={"w3": 0.3}) as (sequencer, publisher, policy):
        await sequencer.append(entries(0, 5))
        assert await publisher.wait_for(5, timeout_s=WAIT_S)
        await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
        await sequencer.append(entries(5, 9))
        # Nothing else is appended: its time comes while the head is published already.
        await until_async(lambda: publisher.witnesses[2].cosigned_size == 9)
        await until_async(lambda: len(_cosigners(policy, publisher)) == 3)
        asked = len(witnesses[2].bodies)
        await asyncio.sleep(0.4)
        assert len(witnesses[2].bodies) == asked


@pytest.mark.anyio
async def test_a_cosignature_that_comes_after_newer_heads_is_added_to_the_kept_one(
    path: Path,
) -> None:
    witnesses = three()
    release, asked = asyncio.Event(), asyncio.Event()

    async def late(
        witness: ScriptedWitness, request: web.Request, body: bytes
    ) -> web.StreamResponse:
        asked.set()
        await release.wait()
        return await honest(witness, request, body)

    witnesses[2].behave = late
    async with among(path, witnesses, timeout_s=60, intervals_s={"w3": 3600}) as (
        sequencer,
        publisher,
        policy,
    ):
        await asked.wait()
        request = parse_add_checkpoint(witnesses[2].bodies[0])
        size = request.signed.head.tree_size
        for start in range(0, 60, 20):
            await sequencer.append(entries(start, start + 20))
            assert await publisher.wait_for(start + 20, timeout_s=WAIT_S)
        release.set()
        store = sequencer.store

        def cosignatures() -> int:
            found = store.published(size)
            return 0 if found is None else len(policy.check(found.note).cosignatures)

        await until_async(lambda: cosignatures() == 3)
        assert publisher.published is not None
        assert publisher.published.head.tree_size == 60
        assert store.published() == publisher.published


@pytest.mark.parametrize("pause", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
@pytest.mark.anyio
async def test_a_witness_that_asks_for_a_pause_gets_it(path: Path, pause: str) -> None:
    witnesses = three()
    witnesses[2].behave = says(429, "too often", **{"Retry-After": pause})
    async with among(path, witnesses) as (sequencer, publisher, _):
        for start in range(0, 100, 20):
            await sequencer.append(entries(start, start + 20))
            assert await publisher.wait_for(start + 20, timeout_s=WAIT_S)
        await until_async(lambda: error_of(publisher, "w3") is not None)
        assert len(witnesses[2].bodies) == 1


@pytest.mark.anyio
async def test_a_dead_witness_is_said_once_and_so_is_its_return(path: Path) -> None:
    witnesses = three()
    witnesses[2].behave = says(503, "later")
    with capture_logs() as lines:
        async with among(path, witnesses) as (sequencer, publisher, _):
            await sequencer.append(entries(0, 5))
            await until_async(lambda: len(witnesses[2].bodies) >= 4)
            witnesses[2].behave = honest
            await until_async(lambda: error_of(publisher, "w3") is None)
    said = [line["event"] for line in lines if line["event"].startswith("witness_")]
    assert said == ["witness_failed", "witness_cosigns_again"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("w9=60", "no witness 'w9'; it has w1, w2, w3"),
        ("w1", "expected NAME=SECONDS"),
        ("w1=0", "above 0"),
        ("w1=1.5", "whole seconds"),
        ("w1=60,,w2=x", "'w2=x'"),
    ],
)
def test_an_interval_that_means_nothing_is_refused(text: str, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        witness_intervals(text, policy_of(three()))


def test_intervals_are_read_by_name() -> None:
    assert witness_intervals("", policy_of(three())) == {}
    assert witness_intervals("w1=60, w3=3600", policy_of(three())) == {"w1": 60, "w3": 3600}
