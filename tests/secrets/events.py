"""Events to hide secrets in."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def rows(name: str) -> list[dict[str, Any]]:
    """The vectors of a file beside this one."""
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


def event_with(**fields: Any) -> dict[str, Any]:
    """A small event with these fields."""
    return {"action": "user.login", "actor": {"id": "u_1"}, "outcome": "success", **fields}
