"""The vectors of this folder: one text of an event each, and what becomes of it."""

import json
from pathlib import Path
from typing import Any

VECTORS_DIR = Path(__file__).parent / "vectors"


def load_vectors(name: str) -> list[dict[str, Any]]:
    """Read a file of vectors, a JSON object on each line."""
    lines = (VECTORS_DIR / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


REFUSED = load_vectors("refused")
"""`text` is refused with `rule` at `field`; `limit` and `got` where the rule has them.

`schema_refuses` says whether the JSON Schema refuses it too; null where a schema never sees it.
"""

ACCEPTED = load_vectors("accepted")
"""`text` is an event, and `canonical` its RFC 8785 JSON before anything is filled in."""
