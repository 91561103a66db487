"""Pairs in the text of a log line: `a=b, c="d e"`, and those of an event of Keycloak.

Keycloak writes a line for each event, with quotes or, before version 24 and with the setting
`quotes=none`, without them:

    type="LOGIN_ERROR", realmId="5f2b", clientId="shop", userId="null", ipAddress="192.0.2.9", …
    type=LOGIN_ERROR, realmId=5f2b, clientId=shop, userId=null, ipAddress=192.0.2.9, error=…, …

What a user typed stands there too, as `username` or as `clientId`. Within quotes it has an end.
Without quotes `x, userId=8e1c` looks like two pairs, so only a part of such a line is read:

* The pairs that each line begins with, if they stand in their order and none of their names comes
  again. A typed text before or among them would have to repeat the names that follow it.
* `username`, if it comes once: it is what was typed, whatever that is.
* Who impersonates, if that comes once and the event is of an administrator who begins to: there
  nothing is typed.
"""

import re
from collections import Counter
from itertools import takewhile
from typing import Final

DOUBT: Final = "in_doubt"
"""The name of the pair that says that others of an event of Keycloak were not read."""

# Each word is read once, and each value to its end: a comma without a blank is a part of it.
_find_pairs = re.compile(
    r"(?<![\w.-])([A-Za-z_][\w.-]*)="
    r"(\"[^\"]*\"(?=, |$)|'[^']*'(?=, |$)|[^,]*+(?:,(?! )[^,]*+)*+)",
    re.ASCII,
).finditer

_BARE: Final = r"=([^,]*+(?:,(?! )[^,]*+)*+)"
_is_bare = re.compile(r"(?:type|operationType)=[A-Z]").match
_match_head = re.compile(
    rf"(type|operationType){_BARE}, (realmId){_BARE}(?:, (realmName){_BARE})?, (clientId){_BARE}, "
    rf"(userId){_BARE}(?:, (sessionId){_BARE})?, (ipAddress){_BARE}"
    rf"(?:, (resourceType){_BARE}, (resourcePath){_BARE})?(?:, (error){_BARE})?(?:, |$)"
).match
_match_start = re.compile(rf"(type|operationType){_BARE}, (realmId){_BARE}(?:, |$)").match
# Also where a value may be quoted: whether it is can't be told from what was typed.
_find_names = re.compile(r"(?:^|, )([A-Za-z_][\w.-]*)=", re.ASCII).findall
_CERTAIN: Final = 2
"""The type and the realm stand before anything that is typed."""
_NAMED_BY_LOGIN: Final = frozenset({"LOGIN", "LOGIN_ERROR", "REGISTER", "REGISTER_ERROR"})
"""Events that have a `username` in any case, so one that was typed comes beside it."""


def parse_pairs(text: str) -> dict[str, str]:
    """Read `a=b, c="d e", f='g'`; of a key that comes twice, the first is kept.

    A value with an escaped quote is the last: what seems to follow may be a part of it.
    """
    found: dict[str, str] = {}
    for match in _find_pairs(text):
        value = match[2]
        quoted = value[:1] in ("'", '"') and value[1:].endswith(value[:1])
        found.setdefault(match[1], value[1:-1] if quoted else value)
        if "\\'" in value or '\\"' in value:
            break
    return found


def parse_keycloak(text: str) -> dict[str, str]:
    """Read an event of Keycloak; the names of pairs that are not read are in `DOUBT`."""
    if not _is_bare(text):
        pairs = parse_pairs(text)
        # At the level TRACE cookies follow, without quotes, as the browser has sent them.
        return dict(takewhile(lambda pair: pair[0] != "cookies", pairs.items()))
    names = Counter(_find_names(text))
    found = _first_pairs(text, names)
    of_type = found.get("type", "")
    others: tuple[str, ...] = ()
    if of_type == "IMPERSONATE":
        others = ("impersonator", "impersonator_realm")
    elif of_type == "TOKEN_EXCHANGE" and names["impersonator"]:
        # One of the two asked for the token, and which one can't be told.
        found.pop("userId", None)
    elif of_type in _NAMED_BY_LOGIN or found.get("userId", "null") == "null":
        others = ("username",)
    if others:
        pairs = parse_pairs(text)
        found |= {name: pairs[name] for name in others if names[name] == 1 and name in pairs}
    if left_out := sorted(name for name in names if name not in found):
        found[DOUBT] = ", ".join(left_out)
    return found


def _first_pairs(text: str, names: Counter[str]) -> dict[str, str]:
    """The pairs that a line begins with; only the first two if others may have been typed."""
    for match in (_match_head(text), _match_start(text)):
        if match is None:
            continue
        groups = match.groups()
        found = {name: value for name, value in zip(groups[::2], groups[1::2], strict=True) if name}
        if len(found) <= _CERTAIN or all(names[name] == 1 for name in found):
            return found
    return {}
