"""SQLAlchemy: a session that records writes of many rows.

    Session = sessionmaker(engine, class_=AuditedSession)
    async_sessionmaker(engine, sync_session_class=AuditedSession)

Recorded are `session.execute` of an `insert`, `update` or `delete` of a mapped class,
`Query.update`, `Query.delete`, `bulk_save_objects`, `bulk_insert_mappings` and
`bulk_update_mappings`. Each is one event, such as `orders.updated` (the name of the table), once
the transaction is committed, with the number of rows as `context.rows` and up to 32 rows as
targets. No failure of recording fails the write. Objects that a flush writes one by one are not
recorded here: use `diff` for them.

An insert that may change or leave out rows which are there (`on_conflict_do_update`,
`INSERT OR IGNORE`) is `orders.written`, without targets, and so is one of a list of rows with
`on_conflict_do_nothing`. Where the database doesn't tell, `context.rows` is how many it was given.

A subclass may set `ledger_tables`, the names of the tables that are recorded; None is all of them.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from itertools import islice
from typing import Any, ClassVar, Final, cast

from sqlalchemy import Connection, event, inspect, select
from sqlalchemy.orm import Mapper, ORMExecuteState, Session, SessionTransaction

from ledger_client.recording.context import pinned_scope, restored
from ledger_client.recording.jsonable import jsonable
from ledger_client.recording.named_values import NOT_SHOWN, masked_value, names_of
from ledger_client.recording.recorder import RecordArguments, current_recorder
from ledger_core.event.model import LIMITS
from ledger_core.event.secrets import default_rules, is_name_key, is_value_key

TARGETS_MAX: Final = LIMITS["targets"].most
_log = logging.getLogger("ledger_client.integrations")

_DO_NOTHING: Final = "OnConflictDoNothing"
"""The name of the clause by which an insert leaves out rows that are there, and counts the rest."""

_PENDING: Final = "ledger_client.pending"

_Pending = tuple[SessionTransaction | None, Callable[[], None]]
"""The transaction or savepoint of a write, and what records it."""


class AuditedSession(Session):
    """A session whose writes of many rows are recorded."""

    ledger_tables: ClassVar[Collection[str] | None] = None

    def bulk_save_objects(self, objects: Iterable[object], *args: Any, **options: Any) -> None:
        """Write the objects, as `Session.bulk_save_objects` does: one event for each class."""
        found = [*objects]
        by_kind: dict[tuple[Mapper[Any], str], list[object]] = {}
        for each in found:
            what = "updated" if inspect(each).has_identity else "created"
            by_kind.setdefault((inspect(type(each)), what), []).append(each)
        super().bulk_save_objects(found, *args, **options)
        for (mapper, what), rows in by_kind.items():
            states = [inspect(row).dict for row in rows[:TARGETS_MAX]]
            self._record_rows(mapper, what, states, len(rows))

    def bulk_insert_mappings(
        self, mapper: Any, mappings: Iterable[dict[str, Any]], *args: Any, **options: Any
    ) -> None:
        """Insert the rows, as `Session.bulk_insert_mappings` does."""
        rows = [*mappings]
        super().bulk_insert_mappings(mapper, rows, *args, **options)
        self._record_rows(_mapper_of(mapper), "created", rows, len(rows))

    def bulk_update_mappings(self, mapper: Any, mappings: Iterable[dict[str, Any]]) -> None:
        """Update the rows, as `Session.bulk_update_mappings` does."""
        rows = [*mappings]
        super().bulk_update_mappings(mapper, rows)
        self._record_rows(_mapper_of(mapper), "updated", rows, len(rows), _common(rows))

    def _record_rows(
        self,
        mapper: Mapper[Any],
        what: str,
        rows: Iterable[Mapping[str, Any]],
        count: int,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the write at the commit; the values are those that all rows have now."""
        name = str(getattr(mapper.local_table, "name", mapper.class_.__name__))
        if not count or (self.ledger_tables is not None and name not in self.ledger_tables):
            return
        try:
            record = _recording(f"{name}.{what}", _arguments(mapper, name, rows, count, values))
        except Exception as error:  # noqa: BLE001 - the application's write must not fail at this
            _log_lost(name, what, error)
            return
        pending: list[_Pending] = self.info.setdefault(_PENDING, [])
        pending.append((self.get_nested_transaction() or self.get_transaction(), record))


@event.listens_for(AuditedSession, "do_orm_execute")
def _record_statement(state: ORMExecuteState) -> Any:
    """Run an insert, update or delete of a mapped class, and record it.

    Other listeners, as those that add a tenant's condition, see the statement first.
    """
    session, mapper = state.session, state.bind_mapper
    if not isinstance(session, AuditedSession) or mapper is None or state.is_select:
        return None
    if not (state.is_insert or state.is_update or state.is_delete):
        return None
    if state._remaining_events():  # noqa: SLF001 - no other way to be the last one
        state._events_todo.append(_record_statement)  # noqa: SLF001 - the state's own list
        return state.invoke_statement()
    statement: Any = state.statement
    has_list = isinstance(state.parameters, list)
    is_matched = not state.is_insert and not has_list  # A list has the key of each row.
    if is_matched and state.update_delete_options._autoflush:  # noqa: SLF001 - as the write will
        session._autoflush()  # noqa: SLF001 - its error is the write's own
    try:
        rows: list[Mapping[str, Any]] = _rows_of(mapper, statement, state.parameters)
        meets = _conflict_of(statement) if state.is_insert else None
        values = _common(rows) if state.is_update else None
        if is_matched:
            rows = _matching(state, mapper)
    except Exception as error:  # noqa: BLE001 - as a column that no attribute stands for
        _log_lost(mapper.class_.__name__, "written", error)
        return None
    kept = {"preserve_rowcount": True} if meets else None  # Drivers forget that of an insert.
    result: Any = state.invoke_statement(execution_options=kept)
    told: int | None = None
    if meets or not has_list:
        result, told = _counted(result, has_rows=bool(statement._returning))  # noqa: SLF001 - not told otherwise
    count = len(rows) if told is None else told
    what = "created" if state.is_insert else "updated" if state.is_update else "deleted"
    if meets and (told is None or meets != _DO_NOTHING):
        what, rows = "written", []
    elif count < len(rows):  # Some were there, or were not when it wrote; nobody tells which.
        rows = []
    session._record_rows(mapper, what, rows, count, values)  # noqa: SLF001 - this class's listener
    return result


@event.listens_for(AuditedSession, "after_commit")
def _record_committed(session: Session) -> None:
    """Record the writes; those of a savepoint are then its outer transaction's, which may fail."""
    savepoint = session.get_nested_transaction()
    if savepoint is None:
        for _, record in session.info.pop(_PENDING, ()):
            record()
        return
    pending: list[_Pending] = session.info.get(_PENDING, [])
    pending[:] = [
        (savepoint.parent if written_in is savepoint else written_in, record)
        for written_in, record in pending
    ]


@event.listens_for(AuditedSession, "after_soft_rollback")
@event.listens_for(AuditedSession, "after_transaction_end")
def _forget_uncommitted(session: Session, ended: SessionTransaction) -> None:
    """Forget the writes of this transaction, and of the savepoints inside it.

    `close` and `reset` of a session end a transaction without a rollback that is told. The next
    commit of the session, which may be another person's, must not record its writes.
    """
    pending: list[_Pending] = session.info.get(_PENDING, [])
    pending[:] = [each for each in pending if not _is_within(each[0], ended)]


def _conflict_of(statement: Any) -> str | None:
    """What an insert does to the rows that it finds in its place; None if that is an error."""
    clause = statement._post_values_clause  # noqa: SLF001 - not told otherwise
    prefixes = [str(prefix).upper() for prefix, _ in statement._prefixes]  # noqa: SLF001
    found = [each for each in prefixes if "IGNORE" in each or "REPLACE" in each]
    return next(iter(found), None if clause is None else type(clause).__name__)


def _counted(result: Any, *, has_rows: bool) -> tuple[Any, int | None]:
    """The result of a statement, and how many rows it wrote; None where nobody tells."""
    count = getattr(result, "rowcount", -1)
    if count >= 0 or not has_rows or hasattr(result, "rowcount"):
        return result, None if count < 0 else count
    # What it wrote are the rows that it returns, which some drivers count only as they are read.
    returned = result.freeze()
    return returned(), len(returned.data)


def _is_within(inner: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while inner is not None:
        if inner is outer:
            return True
        inner = inner.parent
    return False


def _arguments(
    mapper: Mapper[Any],
    name: str,
    rows: Iterable[Mapping[str, Any]],
    count: int,
    values: Mapping[str, Any] | None,
) -> RecordArguments:
    keys, shown = [*_key_columns(mapper)], [*islice(rows, TARGETS_MAX)]
    named = _names(mapper, shown, count, values or {})
    return {
        "targets": [
            (name, known)
            for row in shown
            if all(row.get(key) is not None for key in keys)
            if (known := _id_of(mapper, {key: row[key] for key in keys})) is not None
        ],
        "changes": [
            {"path": f"/{column}", "after": masked_value(column, _shown(value), named)}
            for column, value in (values or {}).items()
            if column not in keys
        ],
        "context": {"rows": count},
        "time": datetime.now(UTC),
    }


def _id_of(mapper: Mapper[Any], key: Mapping[str, Any]) -> str | None:
    """A key as the id of a target; one that is a secret by its name, as `api_keys.key`, is masked.

    None for such a one without `LEDGER_DIGEST_KEY_FILE`: whoever guesses a secret could check the
    guess by a digest without a key.
    """
    from ledger_client.fork_safe_masking import KEY_FILE_VARIABLE, keyed_rules

    text = ",".join(map(str, key.values()))
    for name, value in key.items():
        names = [name, mapper.columns[name].name]
        if name == "key" or is_value_key(name):  # It is the class that tells what it is.
            names.append(mapper.class_.__name__)
        rule = _rule_of(names, value)
        if rule is not None:
            has_key = bool(os.environ.get(KEY_FILE_VARIABLE))
            return keyed_rules(None).masked_id(rule, text) if has_key else None
    return text


def _rule_of(names: list[str], value: Any) -> str | None:
    """The rule by which a value with these names is a secret."""
    from ledger_client.fork_safe_masking import guarded

    return guarded(lambda shown: default_rules().named_rule(names, shown))(value)


def _recording(action: str, arguments: RecordArguments) -> Callable[[], None]:
    """A function that records this write as of now; call it once the write is committed."""
    scope, recorder = pinned_scope(), current_recorder()

    def record() -> None:
        with restored(scope):
            recorder.record_quietly(action, **arguments)

    return record


def _key_columns(mapper: Mapper[Any]) -> dict[str, Any]:
    """The columns of the key, by their attributes: of a table of its own a class writes to that."""
    inherited = None if mapper.inherits is None else mapper.inherits.local_table
    is_own = inherited is not None and mapper.local_table is not inherited
    columns = mapper.local_table.primary_key if is_own else mapper.primary_key
    return {mapper.get_property_by_column(column).key: column for column in columns}


def _matching(state: ORMExecuteState, mapper: Mapper[Any]) -> list[Mapping[str, Any]]:
    """The keys of the first rows that a statement will write, and the names beside their values.

    There are none for a statement of an alias of its class, whose rows are not read.
    """
    statement: Any = state.statement
    if statement.table._annotations.get("parententity") is not mapper:  # noqa: SLF001 - its class
        return []
    keys = _key_columns(mapper)
    names = _name_columns(mapper)
    # A column of another table would multiply the rows.
    columns = keys | {key: each for key, each in names.items() if each.table is mapper.local_table}
    query = select(*columns.values()).limit(TARGETS_MAX)
    query = query.where(*statement._where_criteria, *_added_conditions(state, mapper))  # noqa: SLF001 - as SQLAlchemy reads it
    # The write's connection: a session may read from another database than it writes to.
    connection = state.session.connection(
        bind_arguments={**state.bind_arguments, "clause": statement}
    )
    with _savepoint(connection):
        read = connection.execute(query, cast("Any", state.parameters) or {}).all()
    found = [dict(zip(columns, row, strict=True)) for row in read]
    # A condition on other tables finds a row several times.
    return [*{tuple(row[key] for key in keys): row for row in found}.values()]


def _savepoint(connection: Connection) -> AbstractContextManager[Any]:
    """A savepoint around a read, whose failure else ends the write's transaction in PostgreSQL.

    Other databases go on after it, and some drivers of SQLite commit at the end of a savepoint.
    """
    is_needed = connection.dialect.name == "postgresql"
    if is_needed and not connection._is_autocommit_isolation():  # noqa: SLF001 - not told otherwise
        return connection.begin_nested()
    return nullcontext()


def _added_conditions(state: ORMExecuteState, mapper: Mapper[Any]) -> tuple[Any, ...]:
    """The conditions that SQLAlchemy adds to a write: those of options, and of a shared table."""
    statement: Any = state.statement
    added: dict[Any, Any] = {}
    for option in statement._with_options:  # noqa: SLF001 - not told otherwise
        if getattr(option, "_is_criteria_option", False):
            option.get_global_criteria(added)
    compiling: Any = state._compile_state_cls  # noqa: SLF001 - the class that adds them
    conditions: tuple[Any, ...] = compiling._adjust_for_extra_criteria(added, mapper)  # noqa: SLF001
    return conditions


def _name_columns(mapper: Mapper[Any]) -> dict[str, Any]:
    """The columns that may name the value beside them, by their attributes."""
    return {each.key: each.columns[0] for each in mapper.column_attrs if is_name_key(each.key)}


def _names(
    mapper: Mapper[Any], rows: list[Mapping[str, Any]], count: int, values: Mapping[str, Any]
) -> list[str] | None:
    """The names beside the values of all rows; None where those of some rows are unknown."""
    own = _name_columns(mapper).keys()
    if own and (count > len(rows) or any(own - row.keys() for row in rows)):
        return None
    return [mapper.class_.__name__, *names_of(*rows, values)]


def _rows_of(mapper: Mapper[Any], statement: Any, parameters: Any) -> list[Mapping[str, Any]]:
    """The values of each row, by the names of its attributes; one where all rows get the same."""
    several = [row for rows in getattr(statement, "_multi_values", ()) for row in rows]
    one = getattr(statement, "_values", None) or dict(getattr(statement, "_ordered_values", ()))
    stated = [
        {_name_of(mapper, column): value for column, value in _named(statement, row).items()}
        for row in several or [one]
    ]
    given = parameters if isinstance(parameters, list) else [parameters or {}]
    # Parameters are also those of a condition, under names of their own.
    known = {each.key for each in mapper.column_attrs}
    return [
        {name: _value(value, of_row) for name, value in row.items()}
        | {name: of_row[name] for name in of_row if name in known}
        for of_row in given
        for row in stated
    ]


def _named(statement: Any, row: Any) -> Mapping[Any, Any]:
    """A row of a statement by its columns; one without names has the values of the table's."""
    return row if isinstance(row, Mapping) else dict(zip(statement.table.c, row, strict=False))


def _value(value: Any, parameters: Mapping[str, Any]) -> Any:
    """A value of a statement, or that of the parameter which stands for it."""
    if not hasattr(value, "value"):
        return value
    return parameters.get(getattr(value, "key", ""), value.value)


def _name_of(mapper: Mapper[Any], column: Any) -> str:
    if isinstance(column, str):
        return column
    return mapper.get_property_by_column(column).key


def _log_lost(name: str, what: str, error: Exception) -> None:
    _log.error("event_lost action=%s.%s error=%s", name, what, type(error).__name__)


def _common(rows: list[Any]) -> dict[str, Any]:
    """The values that all rows have, and `NOT_SHOWN` where they differ."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: rows[0].get(name)
        if all(name in row and _is_same(row[name], rows[0].get(name)) for row in rows)
        else NOT_SHOWN
        for name in names
    }


def _is_same(value: Any, other: Any) -> bool:
    """Whether two values are one; not those that can't be compared, as arrays of numbers."""
    try:
        return value is other or bool(value == other)
    except Exception:  # noqa: BLE001 - the application's class may raise anything
        return False


def _shown(value: Any) -> Any:
    return NOT_SHOWN if hasattr(value, "compile") else jsonable(value)


def _mapper_of(mapped: Any) -> Mapper[Any]:
    found: Mapper[Any] = inspect(mapped)
    return found
