"""Entries are sent to mirrors: to ours, and to those that answer strangely."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.cli.fsck import command as fsck
from ledger.follow.position import FollowerPaths
from ledger.log.mirror_peer import take_lost
from ledger.mirror_push.config import MirrorTarget, read_mirrors, read_target
from ledger.mirror_push.heads import OwnHeads
from ledger.mirror_push.mirror_client import AheadError, LostError
from ledger.mirror_push.worker import follow
from ledger.sinks.delivery import Health
from ledger.store.log import LogStore
from ledger_client.cli.app import EXIT_NOT_VERIFIED
from ledger_core.tlog.checkpoint import Checkpoint, format_checkpoint, parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.mirror import UploadDecoder
from ledger_core.tlog.note import Note, Signer, format_note
from ledger_core.tlog.policy import parse_policy
from tests.mirror_push.pushing import LOG_VKEY, Play, PushedFolder, add_to, playing
from tests.sinks.sinking import ORIGIN
from tests.tlog_mirror.sending import SIGNERS, Sender, make_tlog_mirror, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> PushedFolder:
    return PushedFolder(tmp_path / "ledger")


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Sender]:
    make_tlog_mirror(tmp_path / "m", [(ORIGIN, LOG_VKEY)])
    async with serving(tmp_path / "m", uploads_per_address_max=8) as sender:
        yield sender


async def test_a_head_and_its_entries_are_brought_to_a_mirror(
    folder: PushedFolder, mirror: Sender
) -> None:
    kept: list[int] = []
    heads = folder.heads(600, 1, 200)
    async with folder.clients(mirror.url, kept=kept, packages_max=1) as (client,):
        for head in heads:
            signatures = await client.push(head)
            for signer, signature in zip(SIGNERS, signatures, strict=True):
                signer.verifier.check(head.as_note().text, signature)
            # Once more: nothing is sent, and the cosignatures are renewed.
            assert len(await client.push(head)) == len(SIGNERS)
    assert kept == [256, 512, 600, 600, 601, 601, 768, 801, 801]


async def test_a_client_that_has_forgotten_everything_goes_on(
    folder: PushedFolder, mirror: Sender
) -> None:
    folder.grow(600)
    await folder.push(mirror.url)
    folder.grow(300)
    await folder.push(mirror.url)
    await folder.push(mirror.url, next_entry=600)
    await folder.push(mirror.url, gzip=False)
    with pytest.raises(AheadError, match="size 900, this head is older"):
        await folder.push(mirror.url, 600)


async def test_an_older_copy_of_the_log_takes_the_head_that_a_mirror_shows(
    folder: PushedFolder, mirror: Sender, tmp_path: Path
) -> None:
    folder.grow(300)
    await folder.push(mirror.url)
    older = PushedFolder(tmp_path / "older")
    shutil.rmtree(older.directory)
    shutil.copytree(folder.directory, older.directory)
    folder.grow(100)
    await folder.push(mirror.url)
    add_to(older.directory, m1=mirror.url)
    config = read_target(older.directory, "m1")
    assert config is not None
    paths = FollowerPaths(older.directory, "mirrors", "m1")
    paths.make()
    health = Health("m1", paths, kind="mirror")
    with pytest.raises(LostError, match="knows size 400, and the log here has 300 entries"):
        await follow(older.directory, "m1", config, health, asyncio.Event())
    ((name, note),) = take_lost(older.directory)
    assert name == "m1"
    assert parse_signed_checkpoint(note).checkpoint == folder.head().checkpoint
    assert take_lost(older.directory) == []


async def test_a_mirror_that_shows_no_head_of_the_log_proves_nothing(
    folder: PushedFolder,
) -> None:
    folder.grow(20)
    own = folder.head()
    other = Signer.generate(ORIGIN, seed=b"other".ljust(32))
    text = format_checkpoint(Checkpoint(ORIGIN, 400, bytes(32)))
    with closing(LogStore.open(folder.directory / "log")) as log:
        heads = OwnHeads(folder.directory, log, parse_policy(folder.policy.read_bytes()))
        for note in (b"", b"a page", format_note(Note(text, (other.sign(text),))).encode()):
            assert not heads.is_lost(note)
        assert not heads.is_lost(own.note.encode())


async def test_what_another_sender_has_begun_is_finished(
    folder: PushedFolder, mirror: Sender
) -> None:
    early, late = folder.heads(600, 300)
    async with folder.clients(mirror.url, 2) as (one, other):
        await one.push(early)
        assert len(await other.push(late)) == len(SIGNERS)
        with pytest.raises(AheadError):
            await one.push(early)
        assert len(await one.push(late)) == len(SIGNERS)


async def test_no_request_is_larger_than_it_may_be(folder: PushedFolder) -> None:
    folder.grow(2_000)
    info = "2000\n0\n\n"
    play = Play([(200, ""), (400, ""), (202, info)])
    async with playing(play) as url:
        with pytest.raises(UnavailableError, match="again and again"):
            await folder.push(url, gzip=False, packages_max=3)
    path, probe = play.asked[1]
    assert path == "/add-entries"
    assert list(UploadDecoder().feed(probe)) == []
    sent = list(UploadDecoder().feed(play.asked[2][1]))
    assert [(each.start, each.end) for each in sent] == [(0, 256), (256, 512), (512, 768)]


@pytest.mark.parametrize(
    "again",
    [
        [[(202, "3\n4\n\n"), (200, "")] for _ in range(100)],  # Back and forth.
        [[(202, "700\n700\n\n")] for _ in range(100)],  # On beyond the end.
        [[(202, f"600\n{kept}\n\n")] for kept in range(1, 100)],  # By an entry at a time.
    ],
)
async def test_a_mirror_that_gets_nowhere_is_left_alone_for_a_while(
    folder: PushedFolder, again: list[list[tuple[int, str]]]
) -> None:
    folder.grow(600)
    play = Play([(200, ""), (409, "3\n0\n\n"), *chain.from_iterable(again), (422, "enough\n")])
    async with playing(play) as url:
        with pytest.raises(UnavailableError, match="again and again"):
            await folder.push(url)
    assert len(play.asked) < 40


async def test_a_mirror_that_lost_its_copy_gets_all_of_it(folder: PushedFolder) -> None:
    """Below the place that was reached before, each kept package is progress again."""
    folder.grow(256 * 30)
    size = 256 * 30
    kept = [(202, f"{size}\n{256 * count}\n\n") for count in range(1, 30)]
    play = Play([(200, ""), (409, f"{size}\n0\n\n"), *kept, (422, "all was asked for\n")])
    async with playing(play) as url:
        with pytest.raises(UnavailableError, match="all was asked for"):
            await folder.push(url, next_entry=size, packages_max=1)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([(404, "no log\n")], "answered 404; the answer: no log"),
        ([(503, "later\n")], "answered 503; the answer: later"),
        ([(409, "5\n")], "answered 409 to the size that it gave itself|knows size"),
        ([(409, "700\n")], "knows size 700, and the log here has 600 entries"),
        ([(409, "x\n")], "a bad answer of 409"),
        ([(200, ""), (200, "")], "a bad answer"),
        ([(200, ""), (200, "\u2014 example.com/m AAAAAAAA\n")], "known key|bad answer"),
        ([(200, ""), (409, "600\n1\n")], "a bad answer of 409"),
        ([(200, ""), (409, "700\n0\n\n")], "knows size 700"),
        ([(200, ""), (202, "600\n0\n\n")], "again and again"),
        ([(200, ""), (422, "wrong\n")], "answered 422; the answer: wrong"),
        ([(200, ""), (302, "")], "answered 302"),
        ([(200, ""), (200, "x" * 140_000)], "sent more than"),
    ],
)
async def test_a_strange_answer_is_an_error_that_says_so(
    folder: PushedFolder, answers: list[tuple[int, str]], reason: str
) -> None:
    folder.grow(600)
    async with playing(Play(answers)) as url:
        with pytest.raises(UnavailableError, match=reason):
            await folder.push(url)


async def test_a_mirror_that_asks_for_time_gets_it(folder: PushedFolder) -> None:
    folder.grow(3)
    async with playing(Play([(503, "")])) as url:
        with pytest.raises(UnavailableError) as caught:
            await folder.push(url)
    assert caught.value.retry_after_s == 7


async def test_after_a_broken_connection_the_mirror_is_asked_what_it_wants(
    folder: PushedFolder,
) -> None:
    """A mirror may hang up on a body that it does not want; its answer is then not read."""
    (head,) = folder.heads(600)
    play = Play([(200, ""), (400, ""), (200, ""), (409, "600\n512\n\n"), (422, "enough\n")])
    async with (
        playing(play, cut=lambda _path: len(play.asked) == 2 and is_first) as url,
        folder.clients(url, gzip=False) as (client,),
    ):
        is_first = True
        with pytest.raises(UnavailableError, match=r"disconnected|reset"):
            await client.push(head)
        is_first = False
        with pytest.raises(UnavailableError, match="enough"):
            await client.push(head)
    paths = [path for path, _ in play.asked]
    assert paths == ["/add-checkpoint", "/add-entries"] * 2 + ["/add-entries"]
    _, _, _, asked, sent = [UploadDecoder() for _ in play.asked]
    assert list(asked.feed(play.asked[3][1])) == []
    (package,) = sent.feed(play.asked[4][1])
    assert (package.start, package.end) == (512, 600)


def test_a_fault_names_the_mirror_and_its_key(tmp_path: Path) -> None:
    for text, reason in (
        ('[m1]\nurl = "ftp://m"', "mirror 'm1': url: want https"),
        ('[m1]\nurl = "http://m.example"', "insecure = true"),
        ('[m1]\nurl = "https://a:b@m.example"', "url: it has no name, password"),
        ('[m1]\nurl = "https://m.example"\nvkeys = ["x"]', "vkeys"),
        ('[m1]\nurl = "https://m.example"\npackages_max = 33', "packages_max"),
        ('[m1]\nurl = "https://m.example"\ncolour = 1', "colour"),
        ('["m 1"]\nurl = "https://m.example"', "a name has"),
    ):
        (tmp_path / "mirrors.toml").write_text(text, encoding="utf-8")
        with pytest.raises(MalformedError, match=reason):
            read_mirrors(tmp_path)
    (tmp_path / "mirrors.toml").write_text(
        '[m1]\nurl = "https://m.example"\n[m2]\nurl = "x"\n', encoding="utf-8"
    )
    assert read_target(tmp_path, "m1") == MirrorTarget(url="https://m.example")
    assert read_target(tmp_path, "m3") is None


def test_fsck_names_a_fault_of_the_file(folder: PushedFolder) -> None:
    folder.append()
    (folder.directory / "mirrors.toml").write_text("[m1]\nurl = 1\n", encoding="utf-8")
    done = CliRunner().invoke(fsck, [str(folder.directory)], standalone_mode=False)
    assert done.return_value == EXIT_NOT_VERIFIED
    assert "mirrors.toml: " in done.stderr
    assert "mirror 'm1'" in done.stderr
