"""The texts that the code may print: every text literal of the product, `…` where values stand."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("ledger", "client/ledger_core", "client/ledger_client")


def texts_of_code() -> set[str]:
    """The texts of all modules; docstrings are none, since nobody is shown one."""
    return {
        text
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for text in _texts(ast.parse(path.read_text(encoding="utf-8")))
    }


def _texts(tree: ast.Module) -> Iterator[str]:
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docstrings | parts:
                yield text
            case ast.JoinedStr(values=values):
                yield "".join(
                    part.value
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                    else "…"
                    for part in values
                )
