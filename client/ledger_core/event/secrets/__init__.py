"""Finds secrets in events, by the name of a key or the form of a text, and masks them.

    find({"actor": …, "context": {"db": {"password": "…"}}})
        (Hit(path="context.db.password", rule="password"),)

Its modules, in reading order:

    rules       the tables: names of keys, forms of tokens
    luhn        payment card numbers
    folding     names of keys in full width or with invisible characters
    ids         which values are ids
    text_members  members of JSON in a text that can't be decoded
    walk        reads each key and text of one event, in linear time
    scanner     the rules compiled, and the prefilter that spares most events the walk
    user_rules  a user's file, which adds rules and turns rules off
    re2_sets    patterns compiled by RE2, and what a fork requires of them
"""

from functools import lru_cache
from typing import Any

from ledger_core.event.secrets.rules import (
    KEY_RULES,
    PATTERN_RULES,
    KeyRule,
    PatternRule,
    is_name_key,
    is_value_key,
)
from ledger_core.event.secrets.scanner import SecretRules
from ledger_core.event.secrets.user_rules import parse_rules
from ledger_core.event.secrets.walk import Hit

__all__ = [
    "Hit",
    "KeyRule",
    "PatternRule",
    "SecretRules",
    "default_rules",
    "find",
    "is_name_key",
    "is_value_key",
    "mask",
    "parse_rules",
]


@lru_cache(maxsize=1)
def default_rules() -> SecretRules:
    """Return the built-in rules, compiled once in a process, on first use."""
    return SecretRules(KEY_RULES, PATTERN_RULES)


def find(event: bytes | dict[str, Any]) -> tuple[Hit, ...]:
    """Find the secrets in an event by the built-in rules; see `SecretRules.find`."""
    return default_rules().find(event)


def mask(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event without its secrets by the built-in rules; see `SecretRules.mask`."""
    return default_rules().mask(event)
