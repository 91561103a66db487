"""What may be pruned and what may not: policy, holds, followers, quorum; and every interruption."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from ledger.cli.backup import backup as backup_command
from ledger.cli.fsck import command as fsck
from ledger.cli.retention import command
from ledger.cli.serve import command as serve
from ledger.follow.position import FollowerPaths, Position
from ledger.retention.decision import CANCELLED, cancel, decide, read_stage
from ledger.retention.legal_holds import LegalHold, read_holds, write_holds
from ledger.retention.planning import make_plan
from ledger.retention.policy import parse_retention
from ledger.retention.removal import remove_entries
from ledger.runtime.records import write_record
from ledger.service.backup import back_up, erase_only, restore
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.pruning_journal import begin_removal, read_decision
from ledger.service.start_record import remember_files
from ledger.sinks.dead_letters import DeadLetters
from ledger.store import keyspace
from ledger.store.log import DamagedBundleError, LogStore, create_log
from ledger.store.minimum_index import Pruning
from ledger.store.pruning import prune_log
from ledger.store.writer import LogWriter, entry_of
from ledger_client.runtime.clock import unix_us
from ledger_core.event.times import format_time
from ledger_core.query.parser import parse_query
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from tests.service.serving import ORIGIN, event, make_ledger, serving
from tests.store.entries import entries

EVENTS = 700
POLICY = {
    "version": 1,
    "approved_by": "records committee",
    "approved_on": "2026-11-01",
    "minimum_age_days": 0,
    "minimum_entries": 100,
}
MADE = format_time(1_790_000_000_000_000)
LEAST = 512
"""The largest minimum index that the policy allows."""


def write_policy(directory: Path, **fields: Any) -> None:
    lines = (f"{key} = {json.dumps(value)}" for key, value in {**POLICY, **fields}.items())
    (directory / "retention.toml").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that was served: entry 300 is of the actor u_held, entry 400 of the tenant beta."""
    directory = tmp_path_factory.mktemp("made") / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens) as ledger:
        first = ledger.append(event()).json()["results"][0]["index"]
        special: dict[int, dict[str, Any]] = {
            300: {"actor": {"id": "u_held"}},
            400: {"tenant": "beta"},
        }
        indices = range(first + 1, EVENTS)
        assert ledger.append(*(event(**special.get(index, {})) for index in indices)).status == 200
    return directory


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "ledger"
    shutil.copytree(made, copy)
    write_policy(copy)
    return copy


@pytest.fixture
def paths(directory: Path) -> DirectoryPaths:
    return DirectoryPaths(directory)


def run(directory: Path, *words: str, code: int = 0) -> str:
    """Run `ledger retention` in this process; its output, or its error."""
    at = 2 if words[0] == "hold" else 1
    done = CliRunner().invoke(command, [*words[:at], str(directory), *words[at:]])
    assert done.exit_code == code, (done.output, done.exception)
    return f"{done.output}{done.exception or ''}"


def plan(paths: DirectoryPaths) -> Any:
    return make_plan(paths, now_unix_us=unix_us())


def log_outbox(directory: Path) -> None:
    """Serve the ledger until what waits is in the log and published."""
    with serving(directory, {}):
        pass


def decided(paths: DirectoryPaths) -> None:
    """Decide, and have the event logged and published."""
    decide(paths, plan(paths), reason="they are old", now_unix_us=unix_us())
    log_outbox(paths.root)


def remove(paths: DirectoryPaths) -> None:
    remove_entries(paths, now_unix_us=unix_us())


def size(paths: DirectoryPaths) -> int:
    with closing(LogStore.open(paths.log)) as log:
        return log.head().tree_size


def minimum_index(paths: DirectoryPaths) -> int:
    with closing(LogStore.open(paths.log)) as log:
        return log.minimum_index


def problems(directory: Path) -> list[Any]:
    done = CliRunner().invoke(fsck, [str(directory), "--json"])
    return list(json.loads(done.stdout)["problems"])


def test_without_a_policy_nothing_is_pruned(paths: DirectoryPaths) -> None:
    paths.retention.unlink()
    with pytest.raises(UnavailableError, match="without a written policy no entry is pruned"):
        plan(paths)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"version": 2}, "version: this version reads 1, got 2"),
        ({"keep": 1}, "there is no key 'keep'"),
        ({"approved_by": ""}, "approved_by: expected str of length >= 1"),
        ({"approved_on": "yesterday"}, "approved_on: invalid RFC3339"),
        ({"minimum_age_days": -1}, "minimum_age_days: expected float >= 0"),
        ({"minimum_age_days": 40_000}, "minimum_age_days: expected float <= 36500"),
        ({"minimum_entries": 0}, "one of them must be more than 0"),
        ({"archives": ["a"] * 17}, "archives: expected array of length <= 16"),
    ],
)
def test_a_policy_names_the_key_and_the_limit(fields: dict[str, Any], said: str) -> None:
    lines = (f"{key} = {json.dumps(value)}" for key, value in {**POLICY, **fields}.items())
    with pytest.raises(MalformedError, match=said):
        parse_retention("\n".join(lines).encode(), "retention.toml")


def test_a_policy_without_an_age_is_refused() -> None:
    with pytest.raises(MalformedError, match="the key 'minimum_age_days' is missing"):
        parse_retention(b'version = 1\napproved_by = "x"\napproved_on = "2026-11-01"\n', "x")


def test_a_clock_that_is_far_ahead_makes_no_entry_old(
    directory: Path, paths: DirectoryPaths
) -> None:
    """What is pruned by it is gone when the clock is set right. The service starts by no such."""
    write_policy(directory, minimum_age_days=400, minimum_entries=0)
    ahead_us = unix_us() + 5 * 366 * 86_400_000_000
    with pytest.raises(UnavailableError, match=r"clock says 20.* clock_ahead_max_s in .*7776000"):
        make_plan(paths, now_unix_us=ahead_us)
    paths.settings.write_text("clock_ahead_max_s = 999999999\n", encoding="utf-8")
    assert make_plan(paths, now_unix_us=ahead_us).entries == LEAST


def test_nothing_is_pruned_while_the_file_that_names_sinks_is_gone(
    directory: Path, paths: DirectoryPaths
) -> None:
    """What a sink has not sent yet would go: no other file says that there is one."""
    sinks = directory / "sinks.toml"
    sinks.write_text('[siem]\ntype = "file"\npath = "/nowhere/out.jsonl"\n', encoding="utf-8")
    remember_files(paths)
    assert plan(paths).entries == 0
    text = sinks.read_text(encoding="utf-8")
    sinks.unlink()
    with pytest.raises(UnavailableError, match=r"sinks.toml was there .* and is gone"):
        plan(paths)
    sinks.write_text("", encoding="utf-8")
    assert plan(paths).entries == LEAST
    sinks.write_text(text, encoding="utf-8")
    assert plan(paths).entries == 0


def test_the_age_and_the_number_both_keep(directory: Path, paths: DirectoryPaths) -> None:
    assert plan(paths).minimum_after == LEAST
    write_policy(directory, minimum_age_days=1)
    assert plan(paths).entries == 0
    # A day later they may go; the published head keeps the rest.
    later = make_plan(paths, now_unix_us=unix_us() + 25 * 3_600_000_000)
    assert later.minimum_after == LEAST
    write_policy(directory, minimum_entries=EVENTS)
    assert plan(paths).entries == 0


@pytest.mark.parametrize(
    ("options", "first", "after"),
    [
        (("--query", "actor:u_held"), 300, 256),
        (("--tenant", "beta"), 400, 256),
        (("--from", "200", "--to", "210"), 200, 0),
        (("--from", "600", "--to", "700"), None, LEAST),
        (("--query", "actor:u_unknown"), None, LEAST),
        (("--query", "since:-1h"), 0, 0),
    ],
)
def test_a_hold_keeps_what_it_names_and_all_behind_it(
    directory: Path, paths: DirectoryPaths, options: tuple[str, ...], first: int | None, after: int
) -> None:
    said = run(directory, "hold", "add", "case-7", *options, "--reason", "a court asked")
    assert ("it names none of the 700 entries" in said) == ("u_unknown" in options[1])
    if first is not None:
        assert f"the first entry that it names is {first}:" in said
    found = plan(paths)
    held = [bound.first_kept for bound in found.bounds if bound.rule == "legal hold case-7"]
    assert held == ([] if first is None else [first])
    assert found.minimum_after == after
    run(directory, "hold", "release", "case-7", "--reason", "the case is closed")
    assert plan(paths).minimum_after == LEAST


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("case-7", "--query", "nonsense:("), "--query:"),
        (("case-7", "--query", ""), "an empty query holds everything"),
        (("case-7",), "use one of --query, --tenant"),
        (("case-7", "--from", "5", "--to", "5"), "hold something"),
        (("case-7", "--tenant", "a", "--query", "b"), "use one of --query, --tenant"),
        (("case-7", "--query", "time:now..2020-01-01"), "--query:"),
        (("-", "--tenant", "a"), "a name has 1 to 63"),
    ],
)
def test_a_hold_that_says_nothing_is_refused(
    directory: Path, words: tuple[str, ...], said: str
) -> None:
    name, *options = words
    done = CliRunner().invoke(
        command, ["hold", "add", *options, "--reason", "r", "--", str(directory), name]
    )
    assert done.exit_code == 2
    assert said in done.output


def test_a_hold_on_words_of_a_name_is_kept_as_words(directory: Path, paths: DirectoryPaths) -> None:
    query = r"actor.name:CORP\alice"
    run(directory, "hold", "add", "case-7", "--query", query, "--reason", "a court asked")
    (hold,) = read_holds(paths)
    assert parse_query(hold.query) == parse_query(query)


def test_a_hold_is_an_event_and_the_log_remembers_it(
    directory: Path, paths: DirectoryPaths
) -> None:
    run(directory, "hold", "add", "case-7", "--query", "actor:u_held", "--reason", "a court asked")
    log_outbox(directory)
    assert problems(directory) == []
    kept = paths.legal_holds.read_bytes()
    paths.started.unlink()
    paths.legal_holds.unlink()
    with pytest.raises(UnavailableError, match=r"were added, and not released, .* file: case-7"):
        plan(paths)
    paths.legal_holds.write_bytes(kept)
    assert plan(paths).minimum_after == 256
    run(directory, "hold", "release", "case-7", "--reason", "the case is closed")
    log_outbox(directory)
    assert plan(paths).minimum_after == LEAST
    assert read_holds(paths) == ()


def test_a_hold_that_was_released_already_is_said_to_be_so(
    directory: Path, paths: DirectoryPaths
) -> None:
    release = ("hold", "release", "case-7", "--reason", "the case is closed")

    def waiting() -> int:
        with closing(open_tokens(paths)) as access:
            return len(access.outbox())

    assert "released already, or was never added" in run(directory, *release)
    assert waiting() == 0
    add = ("hold", "add", "case-7", "--query", "actor:u_held", "--reason", "a court asked")
    run(directory, *add)
    write_holds(paths, ())
    # The hold is not in the file, and its event is not in the log yet.
    assert "case-7 is released" in run(directory, *release)
    assert waiting() == 2
    for _ in range(2):
        assert "released already" in run(directory, *release)
        assert json.loads(run(directory, *release, "--json")) == {
            "name": "case-7",
            "released": False,
        }
        assert waiting() in (0, 2)
        log_outbox(directory)
    run(directory, *add)
    log_outbox(directory)
    write_holds(paths, ())
    assert "case-7 is released" in run(directory, *release)


def test_a_hold_whose_event_was_pruned_is_not_forgotten(
    directory: Path, paths: DirectoryPaths
) -> None:
    """A hold of entries that come much later: its own event may go before they do."""
    run(directory, "hold", "add", "case-7", "--from", "1500", "--to", "1600", "--reason", "a court")
    run(directory, "hold", "add", "case-8", "--tenant", "beta", "--reason", "a court asked")
    log_outbox(directory)
    run(directory, "hold", "release", "case-8", "--reason", "the case is closed")
    log_outbox(directory)
    with closing(LogWriter.open(paths.log)) as writer:
        writer.commit(entries(0, 900))
    log_outbox(directory)
    for least in (1024, 1280):  # What one pruning remembers, the next one does too.
        write_policy(directory, minimum_entries=size(paths) - least)
        decided(paths)
        remove(paths)
        assert minimum_index(paths) == least
        kept = paths.legal_holds.read_bytes()
        write_holds(paths, ())
        with pytest.raises(UnavailableError, match=r"not in the file: case-7; put the file back"):
            plan(paths)
        changed = LegalHold(name="case-7", reason="r", added=MADE, by="op", start=1, end=2)
        write_holds(paths, (changed,))
        with pytest.raises(UnavailableError, match=r"not in the file as the log says .*: case-7"):
            plan(paths)
        paths.legal_holds.write_bytes(kept)
        plan(paths)
    run(directory, "hold", "release", "case-7", "--reason", "the case is closed")
    log_outbox(directory)
    plan(paths)
    assert read_holds(paths) == ()


def test_a_file_of_holds_that_is_gone_is_noticed(directory: Path, paths: DirectoryPaths) -> None:
    run(directory, "hold", "add", "case-7", "--tenant", "acme", "--reason", "a court asked")
    log_outbox(directory)
    paths.legal_holds.unlink()
    with pytest.raises(UnavailableError, match="was there when the ledger was last started"):
        plan(paths)


def test_a_changed_hold_is_no_hold(directory: Path, paths: DirectoryPaths) -> None:
    run(directory, "hold", "add", "case-7", "--tenant", "acme", "--reason", "a court asked")
    text = paths.legal_holds.read_text().replace("acme", "none")
    paths.legal_holds.write_text(text)
    with pytest.raises(MalformedError, match="another checksum"):
        plan(paths)
    write_policy(directory, version=2)
    assert {each["part"] for each in problems(directory)} >= {"legal-holds.json", "retention.toml"}


def test_a_hold_that_was_changed_with_its_checksum_is_noticed(
    directory: Path, paths: DirectoryPaths
) -> None:
    run(directory, "hold", "add", "case-7", "--query", "actor:u_held", "--reason", "a court asked")
    log_outbox(directory)
    (hold,) = read_holds(paths)
    for changed in ({"query": "actor:nobody"}, {"query": "", "start": 690, "end": 700}):
        write_holds(paths, (msgspec.structs.replace(hold, **changed),))
        with pytest.raises(UnavailableError, match=r"not in the file as the log says .*: case-7"):
            plan(paths)
    # Nor is it enough to lose the file, and to add another hold of this name.
    write_holds(paths, ())
    run(directory, "hold", "add", "case-7", "--query", "actor:nobody", "--reason", "r")
    log_outbox(directory)
    with pytest.raises(UnavailableError, match=r"not in the file as the log says .*: case-7"):
        plan(paths)
    run(directory, "hold", "release", "case-7", "--reason", "the case is closed")
    run(directory, "hold", "add", "case-7", "--query", "actor:nobody", "--reason", "r")
    log_outbox(directory)
    assert plan(paths).minimum_after == LEAST


def test_a_hold_of_what_looks_like_a_secret_is_known_by_its_hash(
    directory: Path, paths: DirectoryPaths
) -> None:
    query = "actor:4111111111111111"
    run(directory, "hold", "add", "case-7", "--query", query, "--reason", "a court asked")
    log_outbox(directory)
    plan(paths)
    (hold,) = read_holds(paths)
    write_holds(paths, (msgspec.structs.replace(hold, query="actor:nobody"),))
    with pytest.raises(UnavailableError, match=r"not in the file as the log says .*: case-7"):
        plan(paths)


def test_followers_and_archives_keep_what_they_lack(directory: Path, paths: DirectoryPaths) -> None:
    (directory / "sinks.toml").write_text('[siem]\nkind = "http"\nurl = "https://siem.example.com"')
    follower = FollowerPaths(directory, "sinks", "siem")
    follower.make()
    write_record(follower.position, Position(next_index=300))
    found = plan(paths)
    assert found.minimum_after == 256
    assert {bound.rule: bound.first_kept for bound in found.bounds}["sinks/siem"] == 300
    write_record(follower.position, Position(next_index=EVENTS))
    assert plan(paths).minimum_after == LEAST
    DeadLetters(follower).add(17, "00", "HTTP 400")
    assert plan(paths).minimum_after == 0
    follower.dead.unlink()
    write_policy(directory, archives=["frankfurt"])
    with pytest.raises(MalformedError, match="has no archive 'frankfurt'"):
        plan(paths)
    (directory / "archive.toml").write_text('[frankfurt]\nurl = "s3://bucket/audit"\n')
    assert plan(paths).minimum_after == 0
    archive = FollowerPaths(directory, "archive", "frankfurt")
    archive.make()
    write_record(archive.position, Position(next_index=600))
    assert plan(paths).minimum_after == LEAST


def test_a_mirror_must_have_cosigned_it(directory: Path, paths: DirectoryPaths) -> None:
    write_policy(directory, mirrors=["paris"])
    with pytest.raises(MalformedError, match="the policy of the log has no witness 'paris'"):
        plan(paths)
    mirror = CosignatureSigner.generate(
        "paris.example.com", algorithm=ED25519_COSIGNATURE, seed=bytes(32)
    )
    text = paths.policy.read_text().replace("quorum", f"witness paris {mirror.verifier}\nquorum")
    paths.policy.write_text(text)
    assert plan(paths).minimum_after == 0


def test_nothing_goes_before_a_quorum_has_cosigned_the_event(
    directory: Path, paths: DirectoryPaths
) -> None:
    decide(paths, plan(paths), reason="they are old", now_unix_us=unix_us())
    with pytest.raises(UnavailableError, match="no published head of a quorum covers the event"):
        remove(paths)
    log_outbox(directory)
    witness = CosignatureSigner.generate(
        "w.example.com", algorithm=ED25519_COSIGNATURE, seed=bytes(32)
    )
    text = paths.policy.read_text().replace(
        "quorum none", f"witness w {witness.verifier}\nquorum w"
    )
    paths.policy.write_text(text)
    with pytest.raises(VerificationError, match="w"):
        remove(paths)
    assert minimum_index(paths) == 0


def test_a_decision_is_refused_when_a_hold_came_meanwhile_and_can_be_taken_back(
    directory: Path, paths: DirectoryPaths
) -> None:
    decided(paths)
    with pytest.raises(UnavailableError, match="a pruning is decided already"):
        decide(paths, plan(paths), reason="again", now_unix_us=unix_us())
    run(directory, "hold", "add", "case-7", "--query", "actor:u_held", "--reason", "a court asked")
    with pytest.raises(UnavailableError, match="legal hold case-7 keeps entry 300"):
        remove(paths)
    assert minimum_index(paths) == 0
    cancel(paths, reason="a hold")
    assert read_stage(paths) is None
    with pytest.raises(UnavailableError, match="no pruning is decided"):
        remove(paths)
    log_outbox(directory)
    assert problems(directory) == []


def test_a_decision_that_was_taken_back_counts_no_more_when_its_file_is_put_back(
    directory: Path, paths: DirectoryPaths
) -> None:
    decided(paths)
    kept = paths.pruning.read_bytes()
    cancel(paths, reason="a court asked")
    for is_logged in (False, True):
        if is_logged:
            log_outbox(directory)
        paths.pruning.write_bytes(kept)
        with pytest.raises(VerificationError, match=r"was taken back, and .*retention cancel"):
            remove(paths)
        with pytest.raises(VerificationError, match="was taken back"):
            read_stage(paths)
        cancel(paths, reason="it is there again")
        assert read_stage(paths) is None
    log_outbox(directory)
    with closing(LogStore.open(paths.log)) as log, log.environment.read() as snapshot:
        bundles = log.leaves_between(snapshot, 0, log.head().tree_size)
        said = [leaf for leaves in bundles for leaf in leaves if CANCELLED.encode() in leaf]
    assert len(said) == 1
    assert minimum_index(paths) == 0


def test_a_file_that_says_that_a_removal_began_removes_nothing_that_is_held(
    directory: Path, paths: DirectoryPaths
) -> None:
    decided(paths)
    run(directory, "hold", "add", "case-7", "--query", "actor:u_held", "--reason", "a court asked")
    log_outbox(directory)
    record = read_decision(paths)
    assert record is not None
    begin_removal(paths, record)
    with pytest.raises(VerificationError, match="hold case-7 names entry 300"):
        remove(paths)
    holds = paths.legal_holds.read_bytes()
    write_holds(paths, ())
    with pytest.raises(UnavailableError, match="not in the file: case-7"):
        remove(paths)
    paths.legal_holds.write_bytes(holds)
    assert minimum_index(paths) == 0


def add_hold_beside(directory: Path, name: str) -> Any:
    options = ("--query", "actor:u_held", "--reason", "a court asked")
    return CliRunner().invoke(command, ["hold", "add", str(directory), name, *options])


def test_a_hold_that_comes_while_the_copy_is_made_stops_the_removal(
    directory: Path, paths: DirectoryPaths
) -> None:
    decided(paths)
    frame = first_bundle(paths)

    def add_hold(_done: int, _total: int) -> None:
        hold = LegalHold(name="case-7", reason="r", added=MADE, by="op", query="actor:u_held")
        write_holds(paths, (hold,))

    with pytest.raises(UnavailableError, match="the legal holds changed meanwhile"):
        remove_entries(paths, now_unix_us=unix_us(), progress=add_hold)
    assert first_bundle(paths) == frame
    log_outbox(directory)  # It starts.
    with pytest.raises(UnavailableError, match="legal hold case-7 keeps entry 300"):
        remove(paths)


def test_a_hold_that_comes_after_the_removal_began_is_refused(
    directory: Path, paths: DirectoryPaths
) -> None:
    decided(paths)
    stage = read_stage(paths)
    assert stage is not None
    begin_removal(paths, stage.record)
    assert "was interrupted" in str(add_hold_beside(directory, "case-7").exception)
    assert read_holds(paths) == ()
    remove(paths)
    done = add_hold_beside(directory, "case-7")
    assert "it holds nothing below index 512: those entries were pruned before" in done.output


def test_a_removal_that_cannot_be_done_leaves_a_ledger_that_starts(
    directory: Path, paths: DirectoryPaths
) -> None:
    """An entry that stays is damaged: the copy fails, and nothing is removed."""
    write_policy(directory, minimum_entries=EVENTS - 300)
    decided(paths)
    with (
        closing(LogStore.open(paths.log, readonly=False)) as log,
        log.environment.write() as transaction,
    ):
        transaction.put(keyspace.ENTRIES, keyspace.bundle_key(1), b"damaged")
    frame = first_bundle(paths)
    with pytest.raises(DamagedBundleError):
        remove(paths)
    assert first_bundle(paths) == frame
    log_outbox(directory)
    cancel(paths, reason="it is damaged")


def first_bundle(paths: DirectoryPaths) -> bytes | None:
    with closing(LogStore.open(paths.log)) as log:
        return log.environment.get(keyspace.ENTRIES, keyspace.bundle_key(0))


def test_apply_shows_the_plan_and_decides_nothing_without_yes(
    directory: Path, paths: DirectoryPaths
) -> None:
    shown = run(directory, "apply", "--reason", "they are old")
    assert "0 now, 512 afterwards" in shown
    assert "512 entries" in shown
    assert "nothing was decided" in shown
    assert read_decision(paths) is None
    assert "its event waits" in run(directory, "apply", "--reason", "they are old", "--yes")
    # A crash before the event was in the outbox: the same command again puts it there, once.
    run(directory, "apply", "--reason", "they are old", "--yes")
    log_outbox(directory)
    assert "next: stop the service" in run(directory, "status")


def leave_before_anything(_paths: DirectoryPaths, _pruning: Pruning) -> None:
    pass


def leave_after_the_log(paths: DirectoryPaths, pruning: Pruning) -> None:
    prune_log(paths.log, pruning)


def leave_a_draft(paths: DirectoryPaths, _pruning: Pruning) -> None:
    draft = paths.log / ".new-left"
    draft.mkdir()
    shutil.copyfile(paths.log / "data.mdb", draft / "data.mdb")


@pytest.mark.parametrize("crash", [leave_before_anything, leave_after_the_log, leave_a_draft])
def test_a_removal_that_was_interrupted_goes_on(
    directory: Path, paths: DirectoryPaths, crash: Callable[[DirectoryPaths, Pruning], None]
) -> None:
    decided(paths)
    stage = read_stage(paths)
    assert stage is not None
    assert stage.event_index is not None
    begin_removal(paths, stage.record)
    crash(paths, Pruning(stage.record.minimum_index, stage.event_index))
    ended = CliRunner().invoke(serve, [str(directory), "--listen", "127.0.0.1:0"])
    assert "was interrupted: run ledger retention remove" in str(ended.exception)
    with pytest.raises(UnavailableError, match="does the rest"):
        cancel(paths, reason="too late")
    remove(paths)
    assert minimum_index(paths) == LEAST
    assert not list(directory.rglob(".new-*"))
    log_outbox(directory)
    assert problems(directory) == []


def test_the_event_of_a_decision_fits_into_the_log_however_many_tenants_there_are(
    directory: Path, paths: DirectoryPaths
) -> None:
    tenants = {f"{number:03}".ljust(256, "税"): 1000 - number for number in range(200)}
    many = msgspec.structs.replace(plan(paths), tenants=tenants)
    record = decide(paths, many, reason="r" * 1000, now_unix_us=unix_us())
    context = json.loads(record.event_json)["context"]
    assert [each["tenant"][:3] for each in context["tenants"][:2]] == ["000", "001"]
    assert len(context["tenants"]) > 20
    log_outbox(directory)
    stage = read_stage(paths)
    assert stage is not None
    assert stage.stage == "covered"
    assert context["tenants_total"] == 200


def test_an_old_log_that_recover_kept_is_named(directory: Path, paths: DirectoryPaths) -> None:
    decided(paths)
    (directory / "log.before-20261101T000000Z").mkdir()
    with pytest.raises(UnavailableError, match=r"log\.before-20261101T000000Z .* move it away"):
        remove(paths)


def test_revoked_tokens_stay_revoked_when_their_events_are_pruned(
    directory: Path, paths: DirectoryPaths
) -> None:
    """The events about the tokens are the first of the log."""
    decided(paths)
    remove(paths)
    log_outbox(directory)
    assert problems(directory) == []


def test_the_event_has_to_be_the_one_that_was_decided(paths: DirectoryPaths) -> None:
    decided(paths)
    record = read_decision(paths)
    assert record is not None
    write_record(paths.pruning, msgspec.structs.replace(record, minimum_index=256))
    with pytest.raises(VerificationError, match="is the event of another pruning"):
        remove(paths)


def test_pruning_twice(directory: Path, paths: DirectoryPaths) -> None:
    write_policy(directory, minimum_entries=EVENTS - 300)
    decided(paths)
    remove(paths)
    assert minimum_index(paths) == 256
    write_policy(directory)
    found = plan(paths)
    assert (found.minimum_before, found.minimum_after, found.entries) == (256, LEAST, 256)
    decided(paths)
    remove(paths)
    assert minimum_index(paths) == LEAST
    log_outbox(directory)
    assert problems(directory) == []


def test_a_backup_follows_the_pruning_and_is_restored(
    directory: Path, paths: DirectoryPaths, tmp_path: Path
) -> None:
    early, late, fresh = (tmp_path / name for name in ("early", "late", "fresh"))
    write_policy(directory, minimum_entries=EVENTS - 300)
    back_up(directory, late, made=MADE)
    with closing(LogStore.open(late / "log")) as log:
        frame = log.environment.get(keyspace.ENTRIES, keyspace.bundle_key(0)) or b""
    # A backup that ends below the minimum index, where entries that it lacks were pruned.
    shutil.copytree(late, early)
    (early / "log/data.mdb").unlink()
    with closing(LogStore.open(paths.log)) as log:
        part = [entry_of(log.leaf(index) or b"") for index in range(100)]
    create_log(early / "log", origin=ORIGIN)
    with closing(LogWriter.open(early / "log")) as writer:
        writer.commit(part)
        tree = writer.head
    manifest = json.loads((early / "backup.json").read_text())
    manifest |= {"tree_size": 100, "root_hash": tree.root_hash.hex()}
    (early / "backup.json").write_text(json.dumps(manifest))

    decided(paths)
    remove(paths)
    for backup in (early, late, fresh):
        back_up(directory, backup, made=MADE)
        assert frame not in (backup / "log/data.mdb").read_bytes()
        assert problems(backup) == []
        restored = tmp_path / f"{backup.name}-restored"
        restore(backup, restored, key=directory / "key", private_key=directory / "private.key")
        assert minimum_index(DirectoryPaths(restored)) == 256
        assert problems(restored) == []
        assert (restored / "retention.toml").exists()


def test_a_backup_of_before_the_kept_entries_is_to_be_deleted(
    directory: Path, paths: DirectoryPaths, tmp_path: Path
) -> None:
    backup, made_at = tmp_path / "backup", 300
    back_up(directory, backup, made=MADE)
    with closing(LogStore.open(paths.log)) as log:
        root_hash = log.root_at(made_at).hex()
    manifest = json.loads((backup / "backup.json").read_bytes())
    (backup / "backup.json").write_text(
        json.dumps({**manifest, "tree_size": made_at, "root_hash": root_hash})
    )
    assert erase_only(directory, backup).erased == 0
    decided(paths)
    remove(paths)
    restored = tmp_path / "restored"
    done = CliRunner().invoke(backup_command, [str(directory), str(backup), "--erasures", "only"])
    assert done.exit_code != 0
    assert "0 values erased, as far as the ledger has the events; " in str(done.exception)
    assert "delete the backup, and use one" in str(done.exception)
    with pytest.raises(UnavailableError, match=r"backup keeps .* delete the backup, and use"):
        restore(backup, restored, erasures=directory)
    assert not restored.exists()
