"""The catalog names fields, keys and values of the events that a caller may read, of no others."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.query.catalog import read_catalog
from ledger.query.engine import QueryEngine
from ledger.query.log_view import EngineView
from ledger.query.segment_builder import SegmentBuilder
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import LogStore
from ledger_core.query.fields import LANGUAGE
from ledger_core.search_answers import FieldsAnswer
from tests.query.events import make_entries, make_log
from tests.query.test_hints import event

SEGMENT_ENTRIES = 16
EVENTS = [
    *(
        event(n, context={"bytes": n, "kind": "a", "deep": {"list": [True, None]}})
        for n in range(20)
    ),
    *(
        event(
            20 + n,
            context={"bytes": "many"},
            changes=[{"path": "/role", "before": "member", "after": n}],
        )
        for n in range(3)
    ),
    event(23, actor={"id": "spy"}, tenant="other", context={"codename": "s3"}),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueryEngine]:
    path: Path = tmp_path_factory.mktemp("catalog")
    make_log(path / "log", make_entries(EVENTS)).close()
    log = LogStore.open(path / "log")
    writer = IndexWriter.open(path / "index", segment_entries=SEGMENT_ENTRIES)
    assert SegmentBuilder(log, writer).seal_next()
    writer.close()
    index = IndexStore(path / "index", segment_entries=SEGMENT_ENTRIES)
    yield QueryEngine(log, index, segment_entries=SEGMENT_ENTRIES)
    log.close()


def catalog(engine: QueryEngine, tenant: str | None, *, time_s: float = 60.0) -> FieldsAnswer:
    return read_catalog(EngineView(engine, tenant, 0, time.monotonic() + time_s, lambda: False))


def test_fields_and_keys_have_their_types_counts_and_values(engine: QueryEngine) -> None:
    found = catalog(engine, None)
    assert (found.tree_size, found.counted, found.exact) == (24, 24, True)
    assert [field.name for field in found.fields] == [field.syntax for field in LANGUAGE]
    fields = {field.name: field for field in found.fields}
    actors = {each.value: each.count for each in fields["actor"].values}
    assert actors == {"u_0": 5, "u_1": 5, "u_2": 5, "u_3": 4, "u_4": 4, "spy": 1}
    assert (fields["actor"].count, fields["actor"].ordered, fields["actor"].facet) == (
        24, False, True)  # fmt: skip
    assert fields["time"].ordered
    assert fields["time"].count is None
    keys = {key.path: (key.types, key.count) for key in found.context}
    assert keys == {
        "bytes": (("number", "text"), 23),
        "kind": (("text",), 20),
        "deep.list": (("boolean", "null"), 40),
        "codename": (("text",), 1),
    }
    (kinds,) = [key.values for key in found.context if key.path == "kind"]
    assert [(each.value, each.count) for each in kinds] == [("a", 20)]


def test_the_values_of_a_key_are_the_most_frequent(engine: QueryEngine) -> None:
    (key,) = [each for each in catalog(engine, "acme").context if each.path == "bytes"]
    assert [(each.value, each.count) for each in key.values[:2]] == [("many", 3), ("0", 1)]
    assert len(key.values) == 10


def test_values_of_changes_and_of_the_context_have_no_path_before_them(
    engine: QueryEngine,
) -> None:
    fields = {field.name: field for field in catalog(engine, None).fields}
    assert [(each.value, each.count) for each in fields["before"].values] == [("member", 3)]
    assert [each.value for each in fields["after"].values] == ["0", "1", "2"]
    assert (fields["before"].count, fields["after"].count) == (3, 3)
    assert fields["context.KEY"].values == ()


def test_a_tenant_sees_no_key_and_no_value_of_another(engine: QueryEngine) -> None:
    for tenant, shown, hidden in (("acme", "u_1", "spy"), ("other", "spy", "u_1")):
        text = str(catalog(engine, tenant))
        assert f"'{shown}'" in text
        assert f"'{hidden}'" not in text
    assert "codename" not in str(catalog(engine, "acme"))
    assert not catalog(engine, "nobody").context
    assert not any(field.values for field in catalog(engine, "nobody").fields)


def test_without_time_the_catalog_has_the_language_alone(engine: QueryEngine) -> None:
    found = catalog(engine, None, time_s=0.0)
    assert len(found.fields) == len(LANGUAGE)
    assert (found.counted, found.exact, found.context) == (0, False, ())
