"""Reads vectors/: a line is a JSON object with one fault or none.

`name` says which fault, `error` is a part of the message that it must meet, or null where nothing
is wrong. `make_vectors` writes the proofs, from the oracle; their hashes are base64. The texts are
written by hand. The first line of a kind of text has the good one, and each other line what is
replaced in it, once: `old` by `new`. The octets of a policy stand as the first 256 characters of
Unicode. The key and the note are the example of c2sp.org/signed-note.
"""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

VECTORS_DIR = Path(__file__).parent / "vectors"


def read_vectors(kind: str) -> list[dict[str, Any]]:
    """The rows of vectors/<kind>.jsonl, in order."""
    with (VECTORS_DIR / f"{kind}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_texts(kind: str) -> list[dict[str, Any]]:
    """The rows of a kind of text, each with its `text`."""
    good, *faults = read_vectors(kind)
    return [good, *({**row, "text": _replace(good["text"], **row)} for row in faults)]


def good_text(kind: str) -> str:
    """The text of a kind that is as it should be."""
    text: str = read_vectors(kind)[0]["text"]
    return text


def _replace(text: str, *, old: str, new: str, **row: str) -> str:
    if old not in text:
        raise ValueError(f"{row['name']}: {old!r} is not in the good text")
    return text.replace(old, new, 1)


def decode_hashes(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """The row with the base64 in these fields decoded, in lists too."""
    decoded = dict(row)
    for name in names:
        value = row[name]
        decoded[name] = list(map(b64decode, value)) if isinstance(value, list) else b64decode(value)
    return decoded
