"""Find retired names in the code and retired phrases in the docs, and print the word to use.

    python -m docs.retired_words

Names are checked where they are defined: modules, classes, functions, variables, attributes and
parameters. Phrases are checked in docs/, README.md and docstrings.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parent.parent
PACKAGES = ("client/ledger_core", "client/ledger_client", "ledger", "bench")

MODULES: Final = {
    "recording": {
        "life": "session", "words": "arguments", "fit": "truncation", "plain": "jsonable",
        "numbering": "encoding", "erasable": "encoding", "drain": "spool_reader",
        "folder": "spool_dir", "policies": "options", "notices": "meta_events",
        "outcomes": "exception_outcomes", "process": "fork_hooks", "logs": "logging_handlers",
        "audited": "decorator",
    },
    "ledger_client": {
        "shared": "base_client", "exchange": "messages", "answer": "responses",
        "problem": "problem_details", "heads": "head_acceptance", "rebuilding": "tree_replay",
        "following": "monitor_loop", "tailing": "event_stream", "masking": "fork_safe_masking",
    },
    "importers": {
        "fitting": "truncation", "originals": "raw_record", "sources": "record_reader",
        "mapped": "apply_mapping", "tables": "mapping_schema",
    },
    "service": {
        "parts": "context", "wire": "schemas", "answers": "responses", "bodies": "request_body",
        "guarding": "secret_filter", "altered": "private_fields", "erasable": "private_fields",
        "searching": "query_pool", "streaming": "streaming_response", "directory": "data_dir",
        "appending": "ingest",
    },
    "query": {
        "upkeep": "indexer", "sealing": "segment_builder", "locate": "resolve_ids",
        "window": "evaluator", "tail": "open_segments", "matching": "predicate",
        "run": "executor", "values": "value_parser", "rows": "leaf_cache", "terms": "analyzer",
        "expression": "ast", "language": "parser",
    },
    "store": {
        "heads": "witness/store", "access": "tokens", "private": "erasable_values",
        "blocks": "term_blocks", "containers": "roaring_containers",
    },
    "event": {
        "choosing": "user_rules", "scanning": "scanner", "automata": "re2_sets", "cards": "luhn",
        "checking": "diagnostics", "reading": "reader", "table": "csv", "private": "commitments",
    },
    "tlog": {"wire": "text", "edge": "growing_tiles"},
    "data": {"telling": "event_maker", "chores": "tasks"},
}  # fmt: skip
"""By folder: a retired module name and the name to use."""

CLASSES: Final = {
    "Life": "RecorderSession", "Home": "InstanceDir", "Drain": "SpoolReader",
    "Said": "RecordArguments", "Ambience": "Environment", "World": "Environment",
    "Pause": "Sleep", "Shared": "BaseClient", "Walk": "BundleIterator",
    "Rebuilding": "TreeReplay", "Rebuilt": "ReplayState", "Taking": "ExportVerifier",
    "Privacy": "PrivateFields", "SecretGuard": "SecretFilter", "Items": "ParsedBody",
    "Kind": "ProblemType", "Published": "SignedCheckpoint", "SignedHead": "SignedCheckpoint",
    "Placed": "AppendResult", "Decided": "Bounds", "During": "TimeRange",
    "Locator": "IdResolver", "Counting": "FacetCounter", "Tail": "OpenSegments",
    "IndexKeeper": "IndexerProcess", "Sealer": "SegmentBuilder", "GrowingTerms": "TermsBuilder",
    "Edge": "GrowingTiles", "Teller": "EventMaker",
}  # fmt: skip

FUNCTIONS: Final = {
    "bury": "dead_letter", "settle": "flush or store_openings", "leave": "release_lock",
    "take_abandoned": "adopt_orphans", "bytes_of_others": "a name that says which bytes",
    "tip": "end_position", "cut_event": "redact", "persist": "with_retries",
}  # fmt: skip

VARIABLES: Final = {
    "life": "session", "home": "instance_dir", "drain": "spool_reader", "ambience": "environment",
    "world": "environment", "notices": "meta_events", "tip": "end_position",
    "bytes_of_others": "a name that says which bytes", "teller": "event_maker",
    "locator": "id_resolver", "sealer": "segment_builder", "keeper": "indexer",
}  # fmt: skip
"""Variables, attributes, parameters. Words that also have a plain meaning (`kind`) are not here."""

PHRASES: Final = {
    r"rules? of the house|those of the house|left the house": "built-in; the company",
    r"on the word of|own word\b": "as … states",
    r"fresh word": "a new head",
    r"are one too many": "use A or B, not both",
    r"nobody says why": "without a reason",
    r"[Ww]ho alters, drops": "If anyone alters, drops",
    r"leaves heads that no longer fit": "the signed heads no longer match",
    r"[Tt]he least that is logged": "minimum level to log",
}


def main() -> int:
    """Print each finding as file:line; exit code 1 when there is one."""
    findings = [*_names(), *_phrases()]
    for place, found, wanted in findings:
        sys.stderr.write(f"{place}: {found!r} is retired; use: {wanted}\n")
    return 1 if findings else 0


def _names() -> Iterator[tuple[str, str, str]]:
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        name = file.relative_to(ROOT)
        retired = MODULES.get(file.parent.name, {})
        if file.stem in retired:
            yield f"{name}:1", file.stem, retired[file.stem]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                words = CLASSES
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                words = FUNCTIONS
            else:
                words = VARIABLES
            defined = _defined(node)
            if (plain := defined.lstrip("_")) in words:
                yield f"{name}:{getattr(node, 'lineno', 1)}", defined, words[plain]


def _defined(node: ast.AST) -> str:
    """The name that a node defines, or an empty text."""
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return name
        case ast.arg(arg=name):
            return name
    return ""


def _phrases() -> Iterator[tuple[str, str, str]]:
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    files += [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            for pattern, wanted in PHRASES.items():
                if found := re.search(pattern, line):
                    yield f"{file.relative_to(ROOT)}:{number}", found[0], wanted


if __name__ == "__main__":
    sys.exit(main())
