"""A ledger that answers with another bundle of evidence than the one asked for is found out.

A table changes each member of the statement and of the manifest; whole bundles are genuine and
belong to another question, case, size, time, tenant or log.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger_client.plans.evidence import REFUSED_ENDING, verify_written
from ledger_client.plans.question import ask_query
from ledger_core.api import AskEvidence
from ledger_core.evidence.findings import Evidence
from ledger_core.evidence.layout import Manifest, Statement
from ledger_core.tlog.errors import MalformedError, VerificationError
from tests.client.hosts import entries
from tests.evidence.bundles import SIZE, Files, Maker, changed, edit_json, files_of

QUERY = "actor:u_1"
MAKER = Maker()


def receive(path: Path, *, size_before: int = SIZE, **asked: Any) -> Evidence:
    """Verify a bundle as the client does that asked for it."""
    ask = AskEvidence(query=QUERY, case="INC-7", reason="stolen account")
    ask = msgspec.structs.replace(ask, **asked)
    with path.open("rb") as file:
        return verify_written(
            file,
            path,
            question=ask_query(ask.query, now_unix_us=0),
            ask=ask,
            policy=MAKER.policy,
            size_before=size_before,
        )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return MAKER.write(tmp_path / "evidence.zip")


def test_the_bundle_that_was_asked_for_is_accepted(bundle: Path) -> None:
    assert receive(bundle).events == 6


GENUINE_LIES: list[tuple[str, Maker, str]] = [
    ("another question", Maker(asked={"query": "action:user.changed"}), "query of an answer"),
    ("every event", Maker(asked={"query": ""}), "query of an answer"),
    ("another case", Maker(asked={"case": "INC-8"}), "case of the statement"),
    ("another reason", Maker(asked={"reason": "curiosity"}), "the reason in the statement"),
    ("other places", Maker(asked={"disclose": ("/reason",)}), "places to disclose"),
    ("a smaller tree", Maker(size=200, kept=(50, 100)), "an earlier export"),
    ("another tenant", Maker(asked={"tenant": "acme"}), "does not meet the query"),
    ("another log", Maker(key="another"), "checkpoint"),
    ("another history", Maker(leaves=entries(SIZE, actor="u_2")), "does not meet the query"),
    ("no quorum", Maker(witnesses=1), "quorum"),
]


@pytest.mark.parametrize(("maker", "named"), [lie[1:] for lie in GENUINE_LIES])
def test_a_genuine_bundle_of_another_export_is_refused_and_kept(
    tmp_path: Path, maker: Maker, named: str
) -> None:
    path = maker.write(tmp_path / "evidence.zip", [3, 60, 150])
    with pytest.raises(VerificationError, match=named):
        receive(path)
    assert path.with_name(f"{path.name}{REFUSED_ENDING}").exists()


def test_an_earlier_export_of_the_same_question_is_refused(bundle: Path) -> None:
    with pytest.raises(VerificationError, match="an earlier export"):
        receive(bundle, size_before=SIZE + 2)


STATEMENT_LIES: dict[str, Any] = {
    "v": 3,
    "query": "actor:u_2",
    "order": "newest",
    "fields": "some",
    "tree_size": SIZE - 1,
    "root_hash": "A" * 43 + "=",
    "total": 7,
    "leaf_hashes_sha256": "0" * 64,
    "files": {},
    "disclose": ["/reason"],
    "disclosed": 1,
    "language": 1,
    "minimum_index": 256,
}

MANIFEST_LIES: dict[str, Any] = {
    "v": 1,
    "events": 5,
    "parts": 0,
    "disclosed": 1,
}
UNCHECKED = {"statement_missing"}
"""Read only where the statement has no proof. docs/security-model.md names it."""


def test_the_tables_have_every_member() -> None:
    assert set(STATEMENT_LIES) == set(Statement.__struct_fields__)
    assert set(MANIFEST_LIES) | UNCHECKED == set(Manifest.__struct_fields__)
    text = (Path(__file__).parents[2] / "docs/security-model.md").read_text()
    assert all(f"`{name}`" in text for name in UNCHECKED)


@pytest.mark.parametrize("member", STATEMENT_LIES)
def test_each_changed_member_of_the_statement_is_noticed(bundle: Path, member: str) -> None:
    def change(files: Files) -> None:
        leaf = msgspec.json.decode(files["statement.leaf.json"])
        leaf["event"]["context"]["evidence"][member] = STATEMENT_LIES[member]
        files["statement.leaf.json"] = msgspec.json.encode(leaf, order="sorted")

    with pytest.raises((VerificationError, MalformedError), match="statement"):
        receive(changed(bundle, change))


@pytest.mark.parametrize("member", MANIFEST_LIES)
def test_each_changed_member_of_the_manifest_is_noticed(bundle: Path, member: str) -> None:
    path = changed(
        bundle, lambda files: edit_json(files, "manifest.json", **{member: MANIFEST_LIES[member]})
    )
    with pytest.raises((VerificationError, MalformedError)):
        receive(path)


def test_each_file_of_another_genuine_bundle_is_noticed(bundle: Path, tmp_path: Path) -> None:
    other = Maker(asked={"query": "action:user.changed", "case": "INC-8"})
    theirs = files_of(other.write(tmp_path / "other.zip", [5, 6, 250]))
    swapped = [name for name, data in files_of(bundle).items() if theirs[name] != data]
    assert len(swapped) > 7
    for name in swapped:
        path = changed(bundle, lambda files, name=name: files.update({name: theirs[name]}))  # type: ignore[misc]  # that of this round
        with pytest.raises((VerificationError, MalformedError)):
            receive(path)
