"""Reads vectors/, whose lines `make_vectors` wrote."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

VECTORS_DIR = Path(__file__).parent / "vectors"


def read_vectors(kind: str) -> list[dict[str, Any]]:
    """The rows of vectors/<kind>.jsonl, in order."""
    with (VECTORS_DIR / f"{kind}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def decode_hashes(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """The row with the base64 in these fields decoded, in lists too."""
    decoded = dict(row)
    for name in names:
        value = row[name]
        decoded[name] = list(map(b64decode, value)) if isinstance(value, list) else b64decode(value)
    return decoded
