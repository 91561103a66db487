"""Values that are secret because of the name beside them, or of the class that they belong to.

    Setting(name="api_key", value="…")      ApiKey(owner="jo", value="…")

The changes of an update have the new value and not the name, which did not change. So a value is
masked where both are known. The rules are the built-in ones of `ledger_core.event.secrets`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ledger_core.event.secrets import default_rules, is_name_key, is_value_key

NOT_SHOWN: Final = {"not_shown": True}
"""Stands for the values of many rows that differ, are unknown, or may be secret."""


def names_of(*rows: Mapping[str, Any]) -> list[str]:
    """The texts in these rows that may name a value beside them."""
    found = (row[key] for row in rows for key in row if is_name_key(key))
    return [text for text in found if isinstance(text, str)]


def masked_value(key: str, value: Any, names: Iterable[str] | None) -> Any:
    """The value of this key, or a mask where one of the names tells that it is a secret.

    `names` is None for the value of many rows, of which some have names that are unknown.
    """
    if not is_value_key(key):
        return value
    if names is None:
        return NOT_SHOWN
    # Imported late: a process that only compares needs no patterns, nor care for them in forks.
    from ledger_client.fork_safe_masking import guarded

    rule = guarded(lambda shown: default_rules().named_rule(names, shown))(value)
    return value if rule is None else {"masked": rule}
