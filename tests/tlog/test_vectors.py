"""Each format takes what it should, writes the same bytes again, and refuses each fault."""

from collections.abc import Callable
from typing import Any

import pytest

from ledger_core.tlog.checkpoint import format_checkpoint, parse_checkpoint
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.keys import VerifierKey
from ledger_core.tlog.note import format_note, parse_note
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.proof import format_proof, format_range_proof, parse_proof, parse_range_proof
from ledger_core.tlog.tile import TileRef, parse_tile_path
from tests.tlog.vector_files import read_texts

FORMATS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], str]]] = {
    "vkey": (VerifierKey.parse, str),
    "note": (parse_note, format_note),
    "checkpoint": (parse_checkpoint, format_checkpoint),
    "proof": (parse_proof, format_proof),
    "range_proof": (parse_range_proof, format_range_proof),
    "tile_path": (parse_tile_path, lambda ref: TileRef(*ref).path),
}

ROWS = [(kind, row) for kind in FORMATS for row in read_texts(kind)]

POLICIES = read_texts("policy")


@pytest.mark.parametrize(
    ("kind", "row"), ROWS, ids=[f"{kind}: {row['name']}" for kind, row in ROWS]
)
def test_each_text_is_written_again_or_refused_for_its_fault(
    kind: str, row: dict[str, Any]
) -> None:
    parse, write = FORMATS[kind]
    if row["error"] is None:
        assert write(parse(row["text"])) == row["text"]
        return
    with pytest.raises(MalformedError, match=row["error"]):
        parse(row["text"])


@pytest.mark.parametrize("row", POLICIES, ids=[row["name"] for row in POLICIES])
def test_each_policy_is_taken_or_refused_for_its_fault(row: dict[str, Any]) -> None:
    octets = row["text"].encode("latin-1")
    if row["error"] is None:
        parse_policy(octets)
        return
    with pytest.raises(MalformedError, match=row["error"]):
        parse_policy(octets)


@pytest.mark.parametrize("kind", ["note", "checkpoint", "proof", "range_proof"])
def test_text_that_is_not_utf_8_is_refused(kind: str) -> None:
    parse, write = FORMATS[kind]
    good = read_texts(kind)[0]["text"].encode()
    assert write(parse(good)).encode() == good
    with pytest.raises(MalformedError, match="UTF-8"):
        parse(good.replace(b"example", b"ex\xffample", 1))
