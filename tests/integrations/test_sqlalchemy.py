"""Writes of many rows by SQLAlchemy are one event each, once they are committed."""

from collections.abc import Callable, Iterator
from operator import is_
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    Integer,
    PickleType,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    aliased,
    mapped_column,
    with_loader_criteria,
)
from sqlalchemy.pool import StaticPool

from ledger_client import Recorder, audit_context, use_recorder
from ledger_client.fork_safe_masking import KEY_FILE_VARIABLE
from ledger_client.integrations.sqlalchemy import AuditedSession
from ledger_client.recording import recorder as recorder_module
from ledger_core.event.secrets import default_rules


class Base(DeclarativeBase):
    """The classes of this test."""


class Order(Base):
    __tablename__ = "orders"
    number: Mapped[int] = mapped_column("id", primary_key=True)
    state: Mapped[str]
    total: Mapped[int] = mapped_column(default=0)


class Part(Base):
    __tablename__ = "parts"
    order: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)


class Setting(Base):
    __tablename__ = "settings"
    name: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column("option")
    value: Mapped[str]


class ApiKey(Base):
    __tablename__ = "api_keys"
    key: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(default="")


class Login(Base):
    __tablename__ = "logins"
    user: Mapped[int] = mapped_column(primary_key=True)
    ticket: Mapped[str] = mapped_column("session_token", primary_key=True)


class Page(Base):
    """Has a kind in its own table, and one with a table beside it."""

    __tablename__ = "pages"
    number: Mapped[int] = mapped_column("id", primary_key=True)
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(default="new")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "page"}  # noqa: RUF012


class Draft(Page):
    __mapper_args__ = {"polymorphic_identity": "draft"}  # noqa: RUF012


class Form(Page):
    __tablename__ = "forms"
    number: Mapped[int] = mapped_column("id", ForeignKey("pages.id"), primary_key=True)
    fields: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "form"}  # noqa: RUF012


class Sketch(Base):
    __table__ = Table(
        "sketches",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("points", PickleType(comparator=is_)),
        Column("hidden", Integer),
    )
    __mapper_args__ = {"exclude_properties": ["hidden"]}  # noqa: RUF012 - as SQLAlchemy wants it


class Recorded:
    """Stands in for a recorder."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[Any], list[Any], int]] = []

    def record_quietly(self, action: str, **event: Any) -> None:
        rows = event["context"]["rows"]
        self.events.append((action, event["targets"], event["changes"], rows))


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    recorded = Recorded()
    use_recorder(cast("Recorder", recorded))
    yield recorded
    recorder_module._recorders.clear()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Order(number=n, state="new", total=n) for n in range(1, 41))
        session.commit()
    yield engine
    engine.dispose()


def orders(*numbers: int) -> list[tuple[str, str]]:
    return [("orders", str(number)) for number in numbers]


def test_a_statement_for_many_rows_is_one_event(engine: Engine, recorded: Recorded) -> None:
    with AuditedSession(engine) as session:
        session.execute(update(Order).where(Order.total < 3).values(state="sent"))
        session.execute(update(Order).values(total=Order.total + 1))
        session.query(Order).filter(Order.number == 7).update({"state": "lost"})
        session.execute(delete(Order).where(Order.number > 38))
        assert session.scalars(select(Order.number)).all() == [*range(1, 39)]
        assert recorded.events == []
        session.commit()
    assert recorded.events == [
        ("orders.updated", orders(1, 2), [{"path": "/state", "after": "sent"}], 2),
        (
            "orders.updated",
            orders(*range(1, 33)),
            [{"path": "/total", "after": {"not_shown": True}}],
            40,
        ),
        ("orders.updated", orders(7), [{"path": "/state", "after": "lost"}], 1),
        ("orders.deleted", orders(39, 40), [], 2),
    ]


def test_objects_that_the_write_flushes_are_flushed_before_its_rows_are_read(
    engine: Engine, recorded: Recorded
) -> None:
    few = update(Order).where(Order.state == "new", Order.number.in_([1, 2, 60])).values(total=0)
    with AuditedSession(engine) as session:
        session.get_one(Order, 1).state = "done"
        session.add(Order(number=60, state="new"))
        session.execute(few)
        session.get_one(Order, 2).state = "done"
        session.execute(few, execution_options={"autoflush": False})
        session.commit()
        session.add(Order(number=60, state="new"))
        with pytest.raises(IntegrityError):
            session.execute(few)
        session.rollback()
        session.commit()
    assert [(targets, rows) for _, targets, _, rows in recorded.events] == [
        (orders(2, 60), 2),
        (orders(2, 60), 2),
    ]


def test_conditions_of_options_and_of_other_listeners_are_those_of_the_rows_named(
    engine: Engine, recorded: Recorded
) -> None:
    few = Order.number < 6
    option = with_loader_criteria(Order, Order.total.in_([1, 3]))
    with AuditedSession(engine) as session:
        session.execute(update(Order).where(few).values(state="sent").options(option))

        @event.listens_for(session, "do_orm_execute")
        def add_condition(state: ORMExecuteState) -> None:
            if state.is_update or state.is_delete:
                state.statement = state.statement.options(option)

        session.execute(update(Order).where(few).values(state="seen"))
        session.execute(delete(Order).where(few))
        assert session.scalars(select(Order.number).where(few)).all() == [2, 4, 5]
        session.commit()
    assert [(targets, rows) for _, targets, _, rows in recorded.events] == [(orders(1, 3), 2)] * 3


def test_of_a_statement_of_an_alias_the_number_of_rows_is_recorded(
    engine: Engine, recorded: Recorded
) -> None:
    other = aliased(Order)
    with AuditedSession(engine) as session:
        session.execute(
            update(other).where(other.number < 3).values(state="sent"),
            execution_options={"synchronize_session": False},
        )
        session.commit()
    sent = [{"path": "/state", "after": "sent"}]
    assert recorded.events == [("orders.updated", [], sent, 2)]


def test_rows_are_read_where_they_are_written(engine: Engine, recorded: Recorded) -> None:
    replica = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(replica)

    class Routed(AuditedSession):
        def get_bind(self, mapper: Any = None, *, clause: Any = None, **_: Any) -> Engine:
            writes = self._flushing or getattr(clause, "is_dml", False)
            return engine if writes else replica

    with Routed() as session:
        session.execute(update(Order).where(Order.number < 3).values(state="sent"))
        session.commit()
    replica.dispose()
    assert [(targets, rows) for _, targets, _, rows in recorded.events] == [(orders(1, 2), 2)]


def test_rows_by_their_keys_are_one_event(engine: Engine, recorded: Recorded) -> None:
    with AuditedSession(engine) as session:
        session.execute(insert(Order), [{"number": n, "state": "new"} for n in (50, 51)])
        session.execute(insert(Order).values(number=52, state="new"))
        several = [{"number": n, "state": "new"} for n in (53, 54)]
        session.execute(insert(Order).values(several))
        session.execute(update(Order), [{"number": 50, "state": "a"}, {"number": 51, "state": "b"}])
        session.bulk_insert_mappings(Part, [{"order": 1, "place": n} for n in (1, 2)])
        session.bulk_update_mappings(Order, [{"number": n, "state": "c"} for n in (50, 51)])
        old = session.get_one(Order, 1)
        old.state = "d"
        session.bulk_save_objects([Order(number=60, state="new"), old])
        session.commit()
    assert recorded.events == [
        ("orders.created", orders(50, 51), [], 2),
        ("orders.created", orders(52), [], 1),
        ("orders.created", orders(53, 54), [], 2),
        ("orders.updated", orders(50, 51), [{"path": "/state", "after": {"not_shown": True}}], 2),
        ("parts.created", [("parts", "1,1"), ("parts", "1,2")], [], 2),
        ("orders.updated", orders(50, 51), [{"path": "/state", "after": "c"}], 2),
        ("orders.created", orders(60), [], 1),
        ("orders.updated", orders(1), [], 1),
    ]


def test_a_statement_with_parameters_is_written_and_shows_their_values(
    engine: Engine, recorded: Recorded
) -> None:
    at: Any = bindparam("at")
    state: Any = bindparam("to")
    shown = [{"path": "/state", "after": "sent"}]
    with AuditedSession(engine) as session:
        one = update(Order).where(Order.number == at)
        session.execute(one.values(state="sent"), {"at": 1})
        session.execute(one.values(state=state), {"at": 2, "to": "sent"})
        session.query(Order).filter(Order.number == at).params(at=3).update({"state": "sent"})
        session.execute(update(Order).where(text("id = :at")).values(state="sent"), {"at": 4})
        session.execute(delete(Order).where(Order.number == at), {"at": 5})
        session.commit()
        assert set(session.scalars(select(Order.number).where(Order.state == "sent"))) == {
            1, 2, 3, 4
        }  # fmt: skip
        assert session.get(Order, 5) is None
    assert recorded.events == [
        *(("orders.updated", orders(number), shown, 1) for number in (1, 2, 3, 4)),
        ("orders.deleted", orders(5), [], 1),
    ]


def test_a_statement_that_returns_rows_returns_them_and_they_are_counted(
    engine: Engine, recorded: Recorded
) -> None:
    with AuditedSession(engine) as session:
        few = Order.number < 4
        sent = session.scalars(update(Order).where(few).values(state="sent").returning(Order))
        assert sorted((order.number, order.state) for order in sent) == [
            (1, "sent"), (2, "sent"), (3, "sent")
        ]  # fmt: skip
        made = session.execute(insert(Order).values(number=50, state="new").returning(Order.total))
        assert made.one() == (0,)
        session.execute(delete(Order).where(few).returning(Order.number))  # Nobody reads them.
        several = [{"number": number, "state": "new"} for number in (51, 52)]
        assert session.scalars(insert(Order).returning(Order.number), several).all() == [51, 52]
        session.commit()
    assert [(action, targets, rows) for action, targets, _, rows in recorded.events] == [
        ("orders.updated", orders(1, 2, 3), 3),
        ("orders.created", orders(50), 1),
        ("orders.deleted", orders(1, 2, 3), 3),
        ("orders.created", orders(51, 52), 2),
    ]


def test_of_classes_that_inherit_the_rows_that_are_written_are_named(
    engine: Engine, recorded: Recorded
) -> None:
    with AuditedSession(engine) as session:
        session.add_all([Page(number=1), Draft(number=2), Form(number=3, fields=1)])
        session.add(Form(number=4, fields=7))
        session.commit()
        session.execute(update(Draft).values(state="sent"))
        session.execute(update(Form).where(Form.fields > 1).values(fields=2))
        session.query(Form).filter(Form.number == 3).update({"fields": 5})
        session.execute(update(Page).where(Page.number == Form.number).values(state="seen"))
        session.execute(delete(Form).where(Form.fields == 5))
        session.commit()
    assert [(action, targets, rows) for action, targets, _, rows in recorded.events] == [
        ("pages.updated", [("pages", "2")], 1),
        ("forms.updated", [("forms", "4")], 1),
        ("forms.updated", [("forms", "3")], 1),
        ("pages.updated", [("pages", "3"), ("pages", "4")], 2),
        ("forms.deleted", [("forms", "3")], 1),
    ]


def test_each_form_of_an_insert_is_written_and_recorded(engine: Engine, recorded: Recorded) -> None:
    with AuditedSession(engine) as session:
        session.execute(insert(Part), {"order": 1, "place": 1})
        session.execute(insert(Part).values((1, 2)))
        session.execute(insert(Part).values([(1, 3), (1, 4)]))
        session.execute(
            insert(Part).from_select(["order", "place"], select(Part.place + 10, Part.order))
        )
        session.commit()
        assert len(session.scalars(select(Part.place)).all()) == 8
    parts = [("parts", f"1,{place}") for place in range(1, 5)]
    assert [(targets, rows) for _, targets, _, rows in recorded.events] == [
        (parts[:1], 1),
        (parts[1:2], 1),
        (parts[2:], 2),
        ([], 4),
    ]


def test_no_row_that_was_there_is_named_as_created(engine: Engine, recorded: Recorded) -> None:
    rows = [{"number": n, "state": "new"} for n in (1, 50)]
    careful = sqlite.insert(Order).on_conflict_do_nothing()
    update_it: dict[str, Any] = {"index_elements": [Order.number], "set_": {"state": "lost"}}
    with AuditedSession(engine) as session:
        session.execute(careful.values(number=1, state="new"))  # No event: it wrote nothing.
        session.execute(careful.values(number=49, state="new"))
        session.execute(careful.values(rows))
        session.execute(careful, rows)
        session.scalars(careful.returning(Order.number), [*rows, {"number": 51, "state": "new"}])
        session.execute(sqlite.insert(Order).values(rows).on_conflict_do_update(**update_it))
        session.execute(sqlite.insert(Order).on_conflict_do_update(**update_it), rows)
        session.execute(insert(Order).prefix_with("OR REPLACE").values(rows))
        session.commit()
    assert [(action, targets, rows) for action, targets, _, rows in recorded.events] == [
        ("orders.created", orders(49), 1),
        ("orders.created", [], 1),
        ("orders.written", [], 2),
        ("orders.created", [], 1),
        *[("orders.written", [], 2)] * 3,
    ]


def test_the_driver_is_told_to_keep_how_many_rows_an_insert_wrote(
    engine: Engine, recorded: Recorded
) -> None:
    """The drivers of PostgreSQL forget it else, and no event could say which rows are new."""
    kept: list[Any] = []

    @event.listens_for(engine, "before_cursor_execute")
    def keep(_connection: Any, _cursor: Any, _text: str, _rows: Any, context: Any, *_: Any) -> None:
        kept.append(context.execution_options.get("preserve_rowcount"))

    one = {"number": 50, "state": "new"}
    with AuditedSession(engine) as session:
        session.execute(sqlite.insert(Order).values(one).on_conflict_do_nothing())
        session.execute(update(Order).values(state="sent"))
        session.commit()
    assert kept[0] is True
    assert not any(kept[1:])
    assert recorded.events[0][1] == orders(50)


def test_what_is_rolled_back_is_not_recorded(engine: Engine, recorded: Recorded) -> None:
    with AuditedSession(engine) as session:
        session.execute(update(Order).where(Order.number == 1).values(state="kept"))
        with session.begin_nested() as savepoint:
            session.execute(update(Order).values(state="gone"))
            savepoint.rollback()
        with session.begin_nested():
            session.execute(update(Order).where(Order.number == 2).values(state="kept too"))
        session.commit()
        session.execute(update(Order).values(state="gone"))
        session.rollback()
        session.commit()
    assert [targets for _, targets, _, _ in recorded.events] == [orders(1), orders(2)]


def test_a_savepoint_that_was_kept_is_recorded_with_the_transaction_around_it(
    engine: Engine, recorded: Recorded
) -> None:
    with AuditedSession(engine) as session:
        with session.begin_nested(), session.begin_nested():
            session.execute(update(Order).where(Order.number == 1).values(state="gone"))
        assert recorded.events == []
        session.rollback()
        with session.begin_nested():
            session.execute(update(Order).where(Order.number == 2).values(state="kept"))
        session.begin_nested()
        session.execute(update(Order).where(Order.number == 3).values(state="kept"))
        assert recorded.events == []
        session.commit()
        outer = session.begin_nested()
        with session.begin_nested():
            session.execute(update(Order).where(Order.number == 4).values(state="gone"))
        outer.rollback()
        session.commit()
    assert [targets for _, targets, _, _ in recorded.events] == [orders(2), orders(3)]


@pytest.mark.parametrize("end", [Session.close, Session.reset, Session.invalidate])
def test_what_a_session_drops_is_not_recorded_with_the_next_commit(
    engine: Engine, recorded: Recorded, end: Callable[[Session], None]
) -> None:
    with AuditedSession(engine) as session:
        with audit_context(actor=("user", "first")):
            session.execute(update(Order).where(Order.number == 1).values(state="gone"))
            session.begin_nested()
            session.execute(update(Order).where(Order.number == 2).values(state="gone"))
            end(session)
        if end is Session.invalidate:  # The database was in its connection.
            Base.metadata.create_all(engine)
            session.execute(insert(Order), [{"number": 3, "state": "new"}])
        with audit_context(actor=("user", "second")):
            session.execute(update(Order).where(Order.number == 3).values(state="kept"))
            session.commit()
    assert orders(1) not in [targets for _, targets, _, _ in recorded.events]
    assert orders(2) not in [targets for _, targets, _, _ in recorded.events]
    assert recorded.events[-1][1] == orders(3)


def test_a_write_of_no_rows_and_of_another_table_is_no_event(
    engine: Engine, recorded: Recorded
) -> None:
    class PartsSession(AuditedSession):
        ledger_tables = ("parts",)

    with PartsSession(engine) as session, audit_context(actor="u_1"):
        session.execute(update(Order).values(state="sent"))
        session.execute(delete(Part))
        session.execute(insert(Part), [{"order": 1, "place": 1}])
        session.commit()
    assert [action for action, *_ in recorded.events] == ["parts.created"]


def test_values_that_can_not_be_compared_are_written(engine: Engine, recorded: Recorded) -> None:
    """The truth of `one == other` is an error for arrays, as those of an embedding."""
    points = [{"id": n, "points": np.array([n, n])} for n in (1, 2)]
    not_shown = [{"path": "/points", "after": {"not_shown": True}}]
    with AuditedSession(engine) as session:
        session.execute(insert(Sketch), points)
        session.execute(update(Sketch), points)
        session.bulk_update_mappings(Sketch, points)
        session.commit()
        written = session.scalars(select(Sketch.__table__.c.points)).all()
        assert [each.tolist() for each in written] == [[1, 1], [2, 2]]
    targets = [("sketches", "1"), ("sketches", "2")]
    assert recorded.events == [
        ("sketches.created", targets, [], 2),
        ("sketches.updated", targets, not_shown, 2),
        ("sketches.updated", targets, not_shown, 2),
    ]


def test_a_write_that_can_not_be_recorded_is_done_all_the_same(
    engine: Engine, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = Sketch.__table__.c.hidden
    with AuditedSession(engine) as session:
        session.execute(insert(Sketch).values(id=1))
        session.execute(update(Sketch).values({hidden: 7}))
        session.commit()
        assert session.execute(select(hidden)).scalar_one() == 7
    assert [action for action, *_ in recorded.events] == ["sketches.created"]
    assert "event_lost action=Sketch.written error=UnmappedColumnError" in caplog.text


@pytest.mark.parametrize("is_autocommit", [False, True])
def test_a_read_that_fails_ends_no_transaction_of_postgresql(
    engine: Engine, recorded: Recorded, monkeypatch: pytest.MonkeyPatch, *, is_autocommit: bool
) -> None:
    """PostgreSQL refuses all that comes after an error, up to the savepoint before it."""
    done: list[str] = []
    monkeypatch.setattr(engine.dialect, "name", "postgresql")
    for name in ("savepoint", "release_savepoint", "rollback_savepoint"):
        event.listen(engine, name, lambda *_, name=name: done.append(name))

    @event.listens_for(engine, "before_cursor_execute")
    def refuse(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE")):
            done.append(statement[:6])
        if statement.startswith("SELECT") and "secret" in statement:
            raise PermissionError

    level = "AUTOCOMMIT" if is_autocommit else "SERIALIZABLE"
    with AuditedSession(engine.execution_options(isolation_level=level)) as session:
        for condition in (Order.number == 1, text("'secret' <> state")):
            session.execute(
                update(Order).where(condition).values(state="sent"),
                execution_options={"synchronize_session": False},
            )
        session.commit()
        assert session.query(Order).filter_by(state="sent").count() == 40
    assert recorded.events[0][1] == orders(1)
    del done[-1]  # The count.
    if is_autocommit:
        assert done == ["SELECT", "UPDATE"] * 2
    else:
        assert done == [
            *("savepoint", "SELECT", "release_savepoint", "UPDATE"),
            *("savepoint", "SELECT", "rollback_savepoint", "UPDATE"),
        ]


def test_a_write_succeeds_without_a_recorder(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with AuditedSession(engine) as session:
        session.execute(update(Order).values(state="sent"))
        session.commit()
        assert set(session.scalars(select(Order.state))) == {"sent"}
    assert "event_lost action=orders.updated error=RuntimeError" in caplog.text


def test_the_name_beside_a_value_tells_that_it_is_a_secret(
    engine: Engine, recorded: Recorded
) -> None:
    key = {"name": "api_key", "label": "key"}
    with AuditedSession(engine) as session:
        session.execute(insert(Setting).values(value="s3cret", **key))
        session.execute(update(Setting).where(Setting.label == "key").values(value="s3cret too"))
        session.bulk_update_mappings(Setting, [{"name": "api_key", "value": "s3cret again"}])
        session.execute(
            insert(Setting), [{"name": f"theme_{n}", "label": "x", "value": "x"} for n in range(33)]
        )
        session.execute(update(Setting).values(value="s3cret of many"))
        session.execute(update(Setting).where(Setting.name == "theme_1").values(value="dark"))
        session.commit()
    changes = [changes for action, _, changes, _ in recorded.events if action.endswith("updated")]
    assert changes == [
        [{"path": "/value", "after": {"masked": "api-key"}}],
        [{"path": "/value", "after": {"masked": "api-key"}}],
        [{"path": "/value", "after": {"not_shown": True}}],
        [{"path": "/value", "after": "dark"}],
    ]
    assert "s3cret" not in str(recorded.events)


def test_a_key_that_is_a_secret_is_shown_as_its_digest_or_not_at_all(
    engine: Engine, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write() -> list[Any]:
        recorded.events.clear()
        with AuditedSession(engine) as session:
            session.execute(insert(ApiKey), [{"key": f"s3cret-{n}"} for n in (1, 2)])
            session.execute(insert(Login).values(user=1, ticket="s3cret"))
            session.execute(update(ApiKey).where(ApiKey.key == "s3cret-2").values(owner="u_1"))
            session.execute(delete(ApiKey))
            session.execute(delete(Login))
            session.commit()
        assert [rows for *_, rows in recorded.events] == [2, 1, 1, 2, 1]
        assert "s3cret" not in str(recorded.events)
        return [targets for _, targets, *_ in recorded.events]

    monkeypatch.delenv(KEY_FILE_VARIABLE, raising=False)
    assert write() == [[]] * 5
    key_file = tmp_path / "digest.key"
    key_file.write_text("5a" * 32)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(key_file))
    digest = default_rules().keyed(b"\x5a" * 32).digest
    one, two = (("api_keys", f"masked.api-key.{digest(f's3cret-{n}')}") for n in (1, 2))
    login = ("logins", f"masked.token.{digest('1,s3cret')}")
    assert write() == [[one, two], [login], [two], [one, two], [login]]
    assert default_rules().mask_id(one[1]) == one[1]
