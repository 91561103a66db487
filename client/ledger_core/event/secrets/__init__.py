"""Secrets in events: found by the name of a key or the form of a text, and masked.

    find({"actor": …, "context": {"db": {"password": "…"}}})
        (Hit(path="context.db.password", rule="password"),)

`rules` are the tables, `scanning` reads events by them, `choosing` adds what a user's file says.
"""

from functools import lru_cache
from typing import Any

from ledger_core.event.secrets.rules import KEY_RULES, PATTERN_RULES, KeyRule, PatternRule
from ledger_core.event.secrets.scanner import Hit, SecretRules
from ledger_core.event.secrets.user_rules import parse_rules

__all__ = [
    "Hit",
    "KeyRule",
    "PatternRule",
    "SecretRules",
    "default_rules",
    "find",
    "mask",
    "parse_rules",
]


@lru_cache(maxsize=1)
def default_rules() -> SecretRules:
    """The rules of the house, compiled once in a process, on first use."""
    return SecretRules(KEY_RULES, PATTERN_RULES)


def find(event: bytes | dict[str, Any]) -> tuple[Hit, ...]:
    """The secrets in an event, by the rules of the house; see `SecretRules.find`."""
    return default_rules().find(event)


def mask(event: dict[str, Any]) -> dict[str, Any]:
    """The event without its secrets, by the rules of the house; see `SecretRules.mask`."""
    return default_rules().mask(event)
