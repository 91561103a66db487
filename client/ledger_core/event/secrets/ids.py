"""Which values are ids: they get a digest in place of a mask, and some only look like a card."""

import re
from typing import Final

ID_KEYS: Final = frozenset({"id", "type", "session", "credential", "service", "tenant", "instance"})
"""The keys of an event's own fields that hold ids."""
names_id = re.compile(
    r"(?i:(?:.*[-_. :/])?(?:id|ids|uid|guid|uuid))|.*[a-z0-9](?:Id|ID|Ids|IDs)"
).fullmatch
"""Matches `id`, `order_id`, `X-Request-ID`, `orderId`; not `paid`."""

_RANDOM_ID_ENDINGS: Final = ("correlationid", "parentid", "requestid", "spanid", "traceid")
_NOT_LETTERS: Final = re.compile(r"[^A-Za-z]")
_is_hex_id = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}").fullmatch
"""As W3C trace contexts have them."""


def is_random_id(key: str, value: object) -> bool:
    """Tell a trace's or a request's id in hexadecimal, one in 60,000 of which looks like a card."""
    return (
        isinstance(value, str)
        and _is_hex_id(value) is not None
        and _NOT_LETTERS.sub("", key).lower().endswith(_RANDOM_ID_ENDINGS)
    )
