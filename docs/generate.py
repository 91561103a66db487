"""Write the parts of docs/ that come from the code, or check that they are as the code says.

    python -m docs.generate [--check]

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. A page cannot lag behind the
code, since `make check` runs this with --check.
"""

import ast
import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from msgspec import NODEFAULT

import ledger_client
from ledger.alarms.config import AlarmConfig
from ledger.archive import ids
from ledger.mirror_push.config import MirrorTarget
from ledger.object_storage.config import ArchiveConfig
from ledger.reader.data_dir import ReaderConfig
from ledger.retention.policy import RetentionPolicy
from ledger.runtime.settings_table import Setting, settings_of
from ledger.service.http.openapi import route_rows
from ledger.service.http.problems import PROBLEMS
from ledger.service.metrics import metric_rows
from ledger.service.settings import RELOADED, SETTINGS
from ledger.sinks.config import SinkConfig
from ledger.store import keyspace
from ledger.store.index import group_filter, segment_file
from ledger.tlog_mirror.settings import TLOG_MIRROR_SETTINGS
from ledger.witness.settings import WITNESS_SETTINGS
from ledger_client.recording import options
from ledger_client.sql.recipes import RECIPES
from ledger_core.event.model import LIMITS
from ledger_core.event.schema import event_schema
from ledger_core.query.fields import LANGUAGE

DOCS = Path(__file__).parent
SCHEMA = DOCS / "event.schema.json"


def limits() -> str:
    """The table of what an event may hold."""
    return _table(
        ("at most", "of", "in"),
        [(f"{limit.most:,}", limit.unit, limit.bounds) for limit in LIMITS.values()],
    )


def settings() -> str:
    """The table of settings."""
    return _table(
        ("setting, flag, variable", "default", "at SIGHUP", "what for"),
        [
            (
                f"`{s.name}`<br>`{s.flag}`<br>`{s.variable}`",
                f"`{_plain(s.default)}`",
                "taken anew" if s.name in RELOADED else "",
                s.help,
            )
            for s in SETTINGS
        ],
    )


def witness_settings() -> str:
    """The table of a witness's settings."""
    return _program_settings(WITNESS_SETTINGS)


def tlog_mirror_settings() -> str:
    """The table of the settings of a mirror of logs."""
    return _program_settings(TLOG_MIRROR_SETTINGS)


def _program_settings(rows: Sequence[Setting]) -> str:
    return _table(
        ("flag, variable", "default", "what for"),
        [(f"`{s.flag}`<br>`{s.variable}`", f"`{_plain(s.default)}`", s.help) for s in rows],
    )


def alarms() -> str:
    """The table of an alarm's keys."""
    return _table(
        ("key", "default", "what for"),
        [
            (f"`{s.name}`", "" if s.name == "query" else f"`{_plain(s.default)}`", s.help)
            for s in settings_of(AlarmConfig, "")
        ],
    )


def retention() -> str:
    """The table of the keys of a retention policy."""
    return _table(
        ("key", "default", "what for"),
        [
            (f"`{s.name}`", "" if s.default is NODEFAULT else f"`{_plain(s.default)}`", s.help)
            for s in settings_of(RetentionPolicy, "")
        ],
    )


def archives() -> str:
    """The table of an archive's keys."""
    return _keys_of(ArchiveConfig)


def readers() -> str:
    """The table of a reader's keys."""
    return _keys_of(ReaderConfig)


def _keys_of(config: type[ArchiveConfig | ReaderConfig]) -> str:
    return _table(
        ("key", "default", "what for"),
        [
            (f"`{s.name}`", "" if s.name == "url" else f"`{_plain(s.default)}`", s.help)
            for s in settings_of(config, "")
        ],
    )


def mirrors() -> str:
    """The table of the keys of a mirror that entries are sent to."""
    return _table(
        ("key", "default", "what for"),
        [
            (f"`{s.name}`", "" if s.name == "url" else f"`{_plain(s.default)}`", s.help)
            for s in settings_of(MirrorTarget, "")
        ],
    )


def sinks() -> str:
    """The table of a sink's keys."""
    return _table(
        ("key", "default", "what for"),
        [
            (f"`{s.name}`", "" if s.name == "type" else f"`{_plain(s.default)}`", s.help)
            for s in settings_of(SinkConfig, "")
        ],
    )


def recorder_options() -> str:
    """The table of a recorder's options, each with the docstring below its field."""
    (body,) = (
        node.body
        for node in ast.parse(Path(options.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == options.RecorderOptions.__name__
    )
    helps = {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    return _table(
        ("option", "default", "what for"),
        [
            (f"`{field.name}`", f"`{field.default!r}`", helps[field.name])
            for field in dataclasses.fields(options.RecorderOptions)
        ],
    )


def client_methods() -> str:
    """The table of the public methods of `LedgerClient`."""
    methods = [
        (name, member)
        for name, member in inspect.getmembers(ledger_client.LedgerClient)
        if not name.startswith("_")
    ]
    return _table(
        ("method", "what it does"),
        [(f"`{name}{_parameters_of(member)}`", _first_part(member)) for name, member in methods],
    )


def client_errors() -> str:
    """The table of the errors and warnings that the client's packages raise."""
    named = [(name, getattr(ledger_client, name)) for name in sorted(ledger_client.__all__)]
    raised = [
        (name, one) for name, one in named if isinstance(one, type) and issubclass(one, Exception)
    ]
    return _table(
        ("error", "kind of", "meaning"),
        [(f"`{name}`", f"`{one.__mro__[1].__name__}`", _first_part(one)) for name, one in raised],
    )


def _parameters_of(member: object) -> str:
    """`(event, *, verify=True)`; nothing for a property."""
    if not callable(member):
        return ""
    given = list(inspect.signature(member).parameters.values())[1:]
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in given]
    return str(inspect.Signature(bare))


def _first_part(member: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(member) or "").split("\n\n")[0].split())


def problems() -> str:
    """The table of problem documents."""
    return _table(
        ("type", "status", "title", "meaning"),
        [(f"`#{slug}`", str(p.status), p.title, p.meaning) for slug, p in PROBLEMS.items()],
    )


def routes() -> str:
    """The table of routes."""
    return _table(("route", "needs", "what it does"), route_rows())


def fields() -> str:
    """The fields of the query language."""
    return _table(
        ("field", "what it is", "example"),
        [(f"`{f.syntax}`", f.meaning, f"`{f.example}`") for f in LANGUAGE],
    )


def playbook() -> str:
    """Each recipe by SQL."""
    return "\n\n".join(
        f"### {recipe.help}\n\n`ledger playbook {name}{f' {recipe.subject.upper()}'.rstrip()}`"
        f"\n\n```sql\n{recipe.sql}\n```"
        for name, recipe in RECIPES.items()
    )


def keyspace_page() -> str:
    """Every key and value of the store."""
    text = (keyspace.__doc__ or "").split("\n\n", 1)[1]
    return f"```text\n{text.split('A full tile is', 1)[0].rstrip()}\n```"


def metrics() -> str:
    """The table of metrics."""
    return _table(("metric", "kind", "labels", "what"), [*metric_rows()])


def layout_of(module: ModuleType) -> str:
    """The layout of a file, as the docstring of the module that reads it has it."""
    layout = (module.__doc__ or "").split("\n\n", 1)[1]
    return f"```text\n{layout.split('All integers are', 1)[0].rstrip()}\n```"


PARTS: dict[str, Callable[[], str]] = {
    "limits": limits,
    "settings": settings,
    "mirrors": mirrors,
    "tlog-mirror-settings": tlog_mirror_settings,
    "witness-settings": witness_settings,
    "alarms": alarms,
    "archives": archives,
    "retention": retention,
    "readers": readers,
    "id-table": lambda: layout_of(ids),
    "sinks": sinks,
    "recorder-options": recorder_options,
    "client-methods": client_methods,
    "client-errors": client_errors,
    "problems": problems,
    "routes": routes,
    "fields": fields,
    "metrics": metrics,
    "playbook": playbook,
    "keyspace": keyspace_page,
    "segment-file": lambda: layout_of(segment_file),
    "filter-file": lambda: layout_of(group_filter),
}


def main() -> None:
    """Write, or with --check say which pages are stale and exit 1."""
    check = sys.argv[1:] == ["--check"]
    wanted = {page: _filled(page.read_text(encoding="utf-8")) for page in DOCS.glob("*.md")}
    wanted[SCHEMA] = json.dumps(event_schema(), indent=2, ensure_ascii=False) + "\n"
    stale = [
        page
        for page, text in wanted.items()
        if not page.exists() or page.read_text(encoding="utf-8") != text
    ]
    if check and stale:
        names = ", ".join(str(page.relative_to(DOCS.parent)) for page in sorted(stale))
        sys.exit(f"not as the code says: {names}; `make docs` writes them")
    for page in stale:
        page.write_text(wanted[page], encoding="utf-8")


def _filled(text: str) -> str:
    for name, part in PARTS.items():
        start, end = f"<!-- generated: {name} -->\n", "<!-- end -->"
        if start in text:
            before, rest = text.split(start, 1)
            text = f"{before}{start}\n{part()}\n\n{end}{rest.split(end, 1)[1]}"
    return text


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(value: object) -> str:
    return json.dumps(value)


if __name__ == "__main__":
    main()
