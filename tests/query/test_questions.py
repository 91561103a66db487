"""The questions that incident responders ask, each with its query and its truth.

The truth is that of a generated incident hidden among other events (`incident`): the number of
events, or the groups that a count should give. A question marked `SQL` needs `ledger sql`.
"""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from zoneinfo import ZoneInfo

import click
import pytest

from ledger.query.answer import Answer
from ledger.query.engine import QueryEngine
from ledger.query.segment_builder import reindex
from ledger.store.index.index_store import IndexStore
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import LogStore
from ledger_client.cli.playbook import RECIPES, arguments_of, since_of
from ledger_client.cli.query import command as query_command
from ledger_client.sql.database import Database, Sources, open_database
from ledger_client.sql.parquet import format_line, write_parquet
from ledger_client.sql.recipes import RECIPES as SQL_RECIPES
from ledger_client.sql.recipes import sql_of
from ledger_core.asking import AskCount
from ledger_core.query.order import Order
from ledger_core.query.parser import parse_query
from ledger_core.query.pivots import around
from ledger_core.tlog.hashing import leaf_hash
from tests.conftest import TESTS_DIR
from tests.query.incident import ATTACKER, BACKGROUND, DAY, Incident

SEGMENT_ENTRIES: Final = 1024 if BACKGROUND < SEGMENT_ENTRIES_MAX else SEGMENT_ENTRIES_MAX

Groups = dict[tuple[str, ...], int]


@dataclass(frozen=True)
class Question:
    """What is asked, how, and the number of events, or the first groups, that are true."""

    asked: str
    query: str
    total: int | None = None
    count: AskCount | None = None
    groups: Groups | None = None
    order: Order = "time"
    first: tuple[str, str] | None = None
    """Of the first event found: its time, and its action."""
    histogram: str | None = None
    check: Callable[[Answer], bool] = lambda _answer: True


def buckets(answer: Answer) -> list[int]:
    """The counts of the histogram of an answer."""
    assert answer.histogram is not None
    return [bucket.count for bucket in answer.histogram.buckets]


by = partial(AskCount, top=10_000)
EVIL = "actor:v_07 credential:tok_evil"
FEED = ",".join([*(f"203.0.113.{n}" for n in range(250)), *(f"192.0.2.{n}" for n in range(250))])

QUESTIONS: Final = (
    Question("who touched X", "target:prod-keys", 3, by(by=("actor",)),
             {("v_07",): 2, ("boss",): 1}),
    Question("who made it", "target:prod-keys", 3, first=("2026-03-01T09:00", "vault.created")),
    Question("all by a token", "credential:tok_evil", 15),
    Question("all of a session", "session:s_evil", 14),
    Question("all from an address", f"source:{ATTACKER}", 28),
    Question("all from a network", "source:192.0.2.64/26", 48),
    Question("all from an IPv6 prefix", "source:2001:db8:bad::/48", 1),
    Question("all by a user agent", "user_agent:sqlmap", 15),
    Question("first seen by time", "user_agent:sqlmap", 15,
             first=(f"{DAY}T02:05", "portal.login.succeeded")),
    Question("last seen by time", "user_agent:sqlmap", 15, order="time-newest",
             first=(f"{DAY}T02:41", "portal.read")),
    Question("accounts sprayed", "source:192.0.2.64/26 action:portal.login.failed", 34,
             by(by=("actor",)), {("v_07",): 5, ("v_00",): 1}),
    Question("which of them succeeded", "source:192.0.2.64/26 action:portal.login.succeeded", 1,
             by(by=("actor",)), {("v_07",): 1}),
    Question("the spray without knowing the network", "action:portal.login.failed", 34,
             by(by=("source/24",), distinct="actor"), {("192.0.2.0/24",): 30}),
    Question("failures, then success", "actor:v_07 action:portal.login.* since:2026-06-15", 6,
             first=(f"{DAY}T01:07", "portal.login.failed")),
    Question("an account since a time", "actor:v_07 since:2026-06-15T02:00Z", 19),
    Question("the timeline of an account: by it", "actor:v_07", 23,
             first=("2026-03-02T10:00", "portal.login.succeeded")),
    Question("… for it", "actor.on_behalf_of:boss", 1),
    Question("… to it", "target:account/v_07", 1),
    Question("MFA that was reset", "action:portal.mfa_reset", 1,
             by(by=("target",)), {("v_09",): 1}),
    Question("roles that were changed", "action:portal.* field:/role", 1),
    Question("permissions that were changed", "field:/acl/0", 1),
    Question("who became owner", "after.role:owner-of-all", 1),
    Question("before and after a change", "before.role:viewer after.role:owner-of-all", 1),
    Question("on behalf of whom", "has:actor.on_behalf_of action:portal.*", 1,
             by(by=("actor", "actor.on_behalf_of")), {("helper", "boss"): 1}),
    Question("data exported", "action:portal.exported", 6),
    Question("its sum", "action:portal.exported", 6, by(by=("actor",), numbers="context.bytes_out"),
             {("v_07",): 6}, check=lambda a: a.counts[0].values[0].sum == 21_000),
    Question("exports above a size", "context.bytes_out:>4000", 2),
    Question("where else a token was used", "credential:tok_evil", 15, by(by=("source", "actor")),
             {(ATTACKER, "v_07"): 14, ("198.18.9.9", "tmp_1"): 1}),
    Question("a new source for an account", "actor:v_07", 23,
             by(by=("source",), new_since="2026-06-01"),
             {(ATTACKER,): 18, ("192.0.2.65",): 1, ("2001:db8:bad::7",): 1}),
    Question("a new action of an account", "actor:v_07", 23,
             by(by=("action",), new_since="2026-06-01"),
             {("portal.exported",): 6, ("portal.read",): 2}),
    Question("the rarest actions of an account", "actor:v_07", 23,
             AskCount(by=("action",), rarest=True, top=2),
             {("portal.account_deleted",): 1, ("portal.account_made",): 1}),
    Question("travel of one account", "actor:v_07 has:context.country", 4,
             by(by=("context.country",)), {("NO",): 3, ("BR",): 1}),
    Question("counts by minute", "action:portal.login.failed", 34, histogram="minute",
             check=lambda a: len(buckets(a)) == 64),
    Question("counts by hour", "action:portal.login.failed", 34, histogram="hour",
             check=lambda a: buckets(a) == [30, 4]),
    Question("counts by weekday", "source:192.0.2.64/26", 48, histogram="weekday",
             check=lambda a: buckets(a) == [48, 0, 0, 0, 0, 0, 0]),
    Question("the most frequent values of a field", "source:192.0.2.64/26", 48,
             AskCount(by=("action",), top=1), {("portal.login.failed",): 34}),
    Question("the rarest values of a field", "action:portal.*", None,
             AskCount(by=("service",), rarest=True, top=1), {("backend",): 1}),
    Question("all values of a field", "action:portal.login.failed", 34, by(by=("actor",)),
             check=lambda a: len(a.counts[0].values) == 30 and not a.counts[0].others),
    Question("field by field", "action:portal.exported", 6, by(by=("target.type", "service")),
             {("vault", "portal"): 6}),
    Question("denied tampering", "outcome:denied target.type:setting", 1),
    Question("deletions", "action:portal.account_deleted", 1),
    Question("what was made and deleted again", "target:account/tmp_1", 2, by(by=("action",)),
             {("portal.account_made",): 1, ("portal.account_deleted",): 1}),
    Question("the blast radius of a token", "credential:tok_evil has:target", 14,
             by(by=("target.type",), distinct="target"), {("vault",): 9, ("account",): 3}),
    Question("one trace across services", "trace:trace-evil", 7, by(by=("service",)),
             {("portal",): 6, ("backend",): 1}),
    Question("without what is known to be good",
             "action:portal.* NOT source:192.0.2.64/26 NOT source:198.18.0.0/16", 1),
    Question("words in any script", "都庁", 1),
    Question("500 addresses of a feed", f"source:{FEED}", None,
             check=lambda a: a.total >= 48),
    Question("late arrivals", "late:>24h action:portal.*", 1),
    Question("what a producer's token sent", "received.by:billing-api action:portal.*", 54),
    Question("outside office hours", "action:portal.* NOT (time:2026-03-01..2026-05-31)",
             histogram="hour-of-day",
             check=lambda a: sum(buckets(a)[1:3]) == 51),
    Question("who read the log", "action:ledger.evidence.exported", 1,
             by(by=("actor",)), {("auditor",): 1}),
    Question("in order of time", "session:s_evil", 14, order="time-newest",
             first=(f"{DAY}T02:41", "portal.read")),
)  # fmt: skip


@dataclass(frozen=True)
class SqlQuestion:
    """What is asked, the recipe that answers it, its subject, and the rows that are true.

    `keys` names the columns of `rows`; `is_all` says that there are no other rows.
    """

    asked: str
    recipe: str
    keys: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    subject: str | None = None
    is_all: bool = True


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"{DAY}T{clock}:00Z")


SQL: Final = (
    SqlQuestion("the spray, and who got in", "spray-by-day", ("network", "failed", "got_in"),
                (("192.0.2.0/24", 30, ["v_07"]),)),
    SqlQuestion("failures, then a success, of any account", "break-ins",
                ("actor_id", "time", "source_ip", "failures"),
                (("v_07", at("02:05"), ATTACKER, 5),), is_all=False),
    SqlQuestion("travel of all accounts: two countries within two hours", "travel",
                ("actor_id", "was_in", "was_at", "country", "time"),
                (("pilot", "NO", at("12:00"), "JP", at("12:40")),)),
    SqlQuestion("sessions of one account that overlap", "overlaps",
                ("actor_id", "session", "other", "both_from", "both_to"),
                (("twice", "s_here", "s_there", at("13:10"), at("13:30")),)),
    SqlQuestion("made, then deleted", "made-and-deleted",
                ("target_type", "target_id", "made_at", "made_by", "gone_at"),
                (("account", "tmp_1", at("02:11"), "v_07", at("02:40")),), is_all=False),
    SqlQuestion("exports above a size, of any field", "large-exports", ("target_id", "bytes"),
                (("set-5", 6000), ("set-4", 5000)), subject="4000"),
    SqlQuestion("outside office hours, by account", "off-hours", ("actor_id", "events"),
                (("v_07", 21), ("v_00", 1)), subject="Europe/Oslo", is_all=False),
    SqlQuestion("dwell time of an address", "dwell", ("actor_id", "events", "dwell"),
                (("v_07", 18, timedelta(minutes=41)), ("tmp_1", 1, timedelta(0)),
                 (None, 29, timedelta(minutes=108))), subject=ATTACKER, is_all=False),
    SqlQuestion("privileges before and after", "privilege-diff",
                ("target_id", "path", "before", "after", "changed_by"),
                (("v_07", "/role", '"viewer"', '"owner-of-all"', ["v_07"]),
                 ("prod-keys", "/acl/0", '"none"', '"read-write"', ["v_07"])), is_all=False),
    SqlQuestion("the blast radius, with the accounts that were made", "blast-radius",
                ("type", "id", "events", "actors"),
                (("account", "tmp_1", 2, ["v_07"]), ("account", "v_07", 1, ["v_07"]),
                 ("account", "v_09", 1, ["v_07"]), ("setting", "audit", 1, ["v_07"]),
                 ("vault", "copy", 1, ["tmp_1"]), ("vault", "late-box", 1, ["v_07"]),
                 ("vault", "prod-keys", 1, ["v_07"]),
                 *(("vault", f"set-{n}", 1, ["v_07"]) for n in range(6))), subject="tok_evil"),
    SqlQuestion("who read the log, and what they asked", "log-readers",
                ("actor_id", "target_id", "reason", "query"),
                (("auditor", "IR-7", "review", "actor:v_07"),)),
)  # fmt: skip
"""Questions about pairs of events, or with an answer of their own shape: recipes by SQL."""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Incident, QueryEngine]]:
    path = tmp_path_factory.mktemp("questions")
    incident = Incident(path / "log")
    log = LogStore.open(path / "log")
    reindex(log, path / "index", segment_entries=SEGMENT_ENTRIES, processes=1)
    index = IndexStore(path / "index", segment_entries=SEGMENT_ENTRIES)
    yield incident, QueryEngine(log, index, segment_entries=SEGMENT_ENTRIES)
    log.close()


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.asked)
def test_a_question_is_answered_with_the_truth(
    asked: tuple[Incident, QueryEngine], question: Question
) -> None:
    incident, engine = asked
    given: dict[str, Any] = {"is_filled": True, "histogram": question.histogram}
    if question.count is not None:
        given["counts"] = (question.count,)
    answer = engine.search(
        parse_query(question.query, is_long=True),
        tenant=None,
        now_unix_us=incident.now_unix_us,
        order=question.order,
        **given,
    )
    assert answer.total_exact
    assert question.total in (None, answer.total)
    if question.first is not None:
        event = incident.events[answer.rows[0].index]
        assert (event["time"][:16], event["action"]) == question.first
    if question.count is not None:
        (counted,) = answer.counts
        assert counted.exact
        groups = {each.values: each.distinct or each.count for each in counted.values}
        expected = question.groups or {}
        assert {group: groups.get(group) for group in expected} == expected
    assert question.check(answer)


def test_what_happened_around_an_event(asked: tuple[Incident, QueryEngine]) -> None:
    incident, engine = asked
    found = next(
        i for i, each in enumerate(incident.events) if each["action"] == "portal.mfa_reset"
    )
    leaf = engine._leaf_cache.leaves([found])[0]
    answer = engine.search(
        around(leaf, minutes=10), tenant=None, now_unix_us=incident.now_unix_us, order="time"
    )
    actions = [incident.events[row.index]["action"] for row in answer.rows]
    assert actions[0] == "portal.login.failed"
    assert actions[-1] == "portal.account_made"
    times = [incident.events[row.index]["time"] for row in answer.rows]
    assert times == sorted(times)
    assert len(times) == 9


@pytest.fixture(scope="module")
def database(
    asked: tuple[Incident, QueryEngine], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    folder = tmp_path_factory.mktemp("sql")
    lines, sealed = folder / "events.jsonl", folder / "events.parquet"
    with lines.open("wb") as file:
        for index, leaf in enumerate(asked[0].leaves):
            file.write(format_line(index, leaf, leaf_hash(leaf)))
    write_parquet(lines, sealed, with_leaf=False)
    with open_database(Sources(parquet=[sealed]), folder) as made:
        yield made


@pytest.mark.parametrize("since", [None, "2026-02-01"])
@pytest.mark.parametrize("question", SQL, ids=lambda question: question.asked)
def test_sql_answers_with_the_truth(
    database: Database, question: SqlQuestion, since: str | None
) -> None:
    since_us = since_of(since, now_unix_us=0) if since else None
    answer = database.ask(sql_of(SQL_RECIPES[question.recipe], question.subject, since_us))
    found = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    rows = [tuple(row[key] for key in question.keys) for row in found]
    assert [row for row in question.rows if row not in rows] == []
    assert len(rows) == len(question.rows) or not question.is_all


def test_a_value_in_sql_is_quoted_and_a_number_is_one(database: Database) -> None:
    odd = "x' OR 1 = 1 --"
    assert not list(database.ask(sql_of(SQL_RECIPES["blast-radius"], odd, None)).rows)
    with pytest.raises(ValueError, match="want a number of bytes"):
        sql_of(SQL_RECIPES["large-exports"], "1 OR 1 = 1", None)


def test_an_address_in_sql_has_the_form_of_the_events() -> None:
    recipe = SQL_RECIPES["dwell"]
    for written, logged in {
        "2001:DB8:0:0::2": "2001:db8::2",
        "::ffff:203.0.113.9": "203.0.113.9",
        "203.0.113.9": "203.0.113.9",
    }.items():
        assert f"source_ip = '{logged}'" in sql_of(recipe, written, None)
    for other in ("", "203.0.113.0/24", "203.0.113.9:443", "x' OR 1 = 1 --"):
        with pytest.raises(ValueError, match="want an address"):
            sql_of(recipe, other, None)


def test_outside_office_hours_agrees_with_a_count_by_hand(
    asked: tuple[Incident, QueryEngine], database: Database
) -> None:
    counted = Counter(
        event["actor"]["id"]
        for event in asked[0].events
        if event["actor"].get("type") == "user" and is_outside(event["time"])
    )
    answer = database.ask(sql_of(SQL_RECIPES["off-hours"], "Europe/Oslo", None))
    assert {row[0]: row[1] for row in answer.rows} == counted


def test_failures_then_a_success_agree_with_a_look_at_each_event(
    asked: tuple[Incident, QueryEngine], database: Database
) -> None:
    logins: dict[str | None, list[tuple[datetime, str]]] = {}
    for event in asked[0].events:
        if "login" in event["action"].lower():
            when = datetime.fromisoformat(event["time"])
            logins.setdefault(event["actor"].get("id"), []).append((when, event["outcome"]))
    expected = Counter(
        (actor, when, failures)
        for actor, own in logins.items()
        for when, outcome in own
        if outcome == "success"
        and (failures := sum(is_failure_before(other, when) for other in own)) >= 3
    )
    answer = database.ask(sql_of(SQL_RECIPES["break-ins"], None, None))
    rows = (dict(zip(answer.columns, row, strict=True)) for row in answer.rows)
    assert Counter((row["actor_id"], row["time"], row["failures"]) for row in rows) == expected


def is_failure_before(login: tuple[datetime, str], success: datetime) -> bool:
    when, outcome = login
    return outcome in ("failure", "denied") and timedelta(0) <= success - when <= timedelta(hours=1)


def test_made_then_deleted_agrees_with_a_look_at_each_event(
    asked: tuple[Incident, QueryEngine], database: Database
) -> None:
    made: dict[tuple[str, str], list[tuple[int, datetime]]] = {}
    gone: dict[tuple[str, str], list[tuple[int, datetime]]] = {}
    for index, event in enumerate(asked[0].events):
        for words, found in (("creat|made|added|register", made), ("delet|remov|destroy", gone)):
            if event["outcome"] == "success" and re.search(words, event["action"], re.IGNORECASE):
                (target,) = event["targets"]
                when = datetime.fromisoformat(event["time"])
                found.setdefault((target["type"], target["id"]), []).append((index, when))
    expected = Counter(
        (index, gone_index)
        for target, own in made.items()
        for index, when in own
        for gone_index, gone_when in gone.get(target, [])
        if timedelta(0) <= gone_when - when <= timedelta(days=1)
    )
    answer = database.ask(sql_of(SQL_RECIPES["made-and-deleted"], None, None))
    rows = (dict(zip(answer.columns, row, strict=True)) for row in answer.rows)
    assert Counter((row["index"], row["gone_index"]) for row in rows) == expected


def is_outside(time: str) -> bool:
    there = datetime.fromisoformat(time).astimezone(ZoneInfo("Europe/Oslo"))
    return there.isoweekday() > 5 or not 7 <= there.hour <= 18


def test_each_recipe_by_sql_is_a_question_and_on_the_page() -> None:
    assert [question.recipe for question in SQL] == list(SQL_RECIPES)
    page = (TESTS_DIR.parent / "docs" / "playbook.md").read_text()
    for name, recipe in SQL_RECIPES.items():
        assert f"`ledger playbook {name}" in page
        assert recipe.sql in page
        parse_query(recipe.where)


def recipes() -> list[tuple[list[str], list[str]]]:
    """Each row of the page's table: the arguments of the recipe, and of its query."""
    text = (TESTS_DIR.parent / "docs" / "playbook.md").read_text()
    rows = re.findall(
        r"^\| `ledger playbook ([^`]*)` \| `ledger query ([^`]*)` \|$", text, re.MULTILINE
    )
    return [(shlex.split(recipe), shlex.split(query)) for recipe, query in rows]


def test_the_page_has_each_recipe_with_its_query() -> None:
    assert [recipe[0] for recipe, _ in recipes()] == list(RECIPES)
    for recipe, query in recipes():
        assert arguments_of(recipe[0], " ".join(recipe[1:]) or None, None) == query
    assert arguments_of("late", None, "-2d")[0] == "late:>1h since:-2d"
    assert arguments_of("privileges", None, "-2d")[0].endswith("OR field:/role) since:-2d")
    for name, subject in (("spray", "u_1"), ("token", None)):
        with pytest.raises(click.UsageError):
            arguments_of(name, subject, None)


def run_recipe(
    asked: tuple[Incident, QueryEngine], name: str, subject: str | None, since: str | None = None
) -> Answer:
    """The answer to a recipe, with its options as the command line reads them."""
    incident, engine = asked
    given = query_command.make_context("query", arguments_of(name, subject, since)).params
    counts = tuple(
        AskCount(
            by=tuple(names.split(",")),
            **{key: given[key] for key in ("distinct", "numbers", "top", "rarest", "new_since")},
        )
        for names in given["fields"]
    )
    return engine.search(
        parse_query(" ".join(given["words"])),
        tenant=None,
        now_unix_us=incident.now_unix_us,
        order=given["order"],
        counts=counts,
        histogram=given["histogram"],
        is_filled=True,
    )


@pytest.mark.parametrize("recipe", [recipe for recipe, _ in recipes()], ids=" ".join)
def test_a_recipe_runs(asked: tuple[Incident, QueryEngine], recipe: list[str]) -> None:
    assert run_recipe(asked, recipe[0], " ".join(recipe[1:]) or None).total_exact


def test_recipes_find_the_incident(asked: tuple[Incident, QueryEngine]) -> None:
    def top(name: str, subject: str | None = None, since: str | None = None) -> Groups:
        (counted,) = run_recipe(asked, name, subject, since).counts
        return {each.values: each.distinct or each.count for each in counted.values}

    assert top("spray", since="2026-06-15T00:00Z")["192.0.2.0/24",] == 30
    assert top("new-sources", "v_07", "2026-06-01")[ATTACKER,] == 18
    assert ("portal.exported",) in top("new-actions", "v_07", "2026-06-01")
    assert top("token", "tok_evil") == {(ATTACKER, "v_07"): 14, ("198.18.9.9", "tmp_1"): 1}
    assert top("reach", "tok_evil") == {("vault",): 9, ("account",): 3, ("setting",): 1}
