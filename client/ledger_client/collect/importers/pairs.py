r"""Pairs in the text of a log line: `a=b, c="d e"`, and those of an event of Keycloak.

Keycloak writes a line for each event, with quotes or, before version 24 and with the setting
`quotes=none`, without them:

    type="LOGIN_ERROR", realmId="5f2b", clientId="shop", userId="null", ipAddress="192.0.2.9", …
    type=LOGIN_ERROR, realmId=5f2b, clientId=shop, userId=null, ipAddress=192.0.2.9, error=…, …

What a user typed stands there too, as `username`, `scope` or `clientId`. Within quotes it has an
end, unless there is a quote in it, which is written as `\"`: so is the end of a text that ends with
a backslash. Without quotes `x, userId=8e1c` looks like two pairs. Of such lines a part is read:

* The pairs that each line begins with, if they stand in their order and none of their names comes
  again. A typed text before or among them would have to repeat the names that follow it.
* `username`, if it comes once: it is what was typed, whatever that is.
* Who impersonates, if that comes once and the event is of an administrator who begins to: there
  nothing is typed. Where it can't be read, the user may not be who acted, and is not read either.
"""

import re
from collections import Counter
from typing import Final

DOUBT: Final = "in_doubt"
"""The name of the pair that says that others of an event of Keycloak were not read."""

# Each word is read once, and each value to its end: a comma without a blank is a part of it. A
# value whose quote has no end goes on to the end of the text.
_find_pairs = re.compile(
    r"(?<![\w.-])([A-Za-z_][\w.-]*)="
    r"(\"[^\"]*\"(?=, |$)|'[^']*'(?=, |$)|[\"'].*|[^,]*+(?:,(?! )[^,]*+)*+)",
    re.ASCII | re.DOTALL,
).finditer

_find_quote = re.compile(r"(?:type|operationType)=([\"'])").match
_match_quoted = {
    quote: re.compile(
        rf"(?:, )?([A-Za-z_][\w.-]*)={quote}([^{quote}]*){quote}(?=, |$)", re.ASCII
    ).match
    for quote in "\"'"
}
_VALUE: Final = r"=(\"[^\"]*\"(?=, |$)|'[^']*'(?=, |$)|(?![\"'])[^,]*+(?:,(?! )[^,]*+)*+)"
_match_head = re.compile(
    rf"(type|operationType){_VALUE}, (realmId){_VALUE}(?:, (realmName){_VALUE})?, "
    rf"(clientId){_VALUE}, (userId){_VALUE}(?:, (sessionId){_VALUE})?, (ipAddress){_VALUE}"
    rf"(?:, (resourceType){_VALUE}, (resourcePath){_VALUE})?(?:, (error){_VALUE})?(?:, |$)"
).match
_match_start = re.compile(rf"(type|operationType){_VALUE}, (realmId){_VALUE}(?:, |$)").match
# Also where a value may be quoted: whether it is can't be told from what was typed.
_find_names = re.compile(r"(?:^|, )([A-Za-z_][\w.-]*)=", re.ASCII).findall
_find_other = {
    name: re.compile(rf"(?:^|, ){name}{_VALUE}(?=, |$)").search
    for name in ("impersonator", "impersonator_realm", "username")
}
_CERTAIN: Final = 2
"""The type and the realm stand before anything that is typed."""
_BY_ANOTHER: Final = frozenset({"IMPERSONATE", "TOKEN_EXCHANGE"})
"""Events in which somebody may act as the user."""
_NAMED_BY_LOGIN: Final = frozenset({"LOGIN", "LOGIN_ERROR", "REGISTER", "REGISTER_ERROR"})
"""Events that have a `username` in any case, so one that was typed comes beside it."""


def parse_pairs(text: str) -> dict[str, str]:
    """Read `a=b, c="d e", f='g'`; of a key that comes twice, the first is kept.

    A value with an escaped quote, or with a quote that has no end, is the last: what seems to
    follow may be a part of it.
    """
    found: dict[str, str] = {}
    for match in _find_pairs(text):
        value = match[2]
        found.setdefault(match[1], _without_quotes(value))
        if "\\'" in value or '\\"' in value:
            break
    return found


def parse_keycloak(text: str) -> dict[str, str]:
    """Read an event of Keycloak; the names of pairs that are not read are in `DOUBT`."""
    if (quoted := _quoted_pairs(text)) is not None:
        return quoted
    names = Counter(_find_names(text))
    found = _first_pairs(text, names)
    of_type = found.get("type", "")
    others: tuple[str, ...] = ()
    if of_type == "IMPERSONATE":
        others = ("impersonator", "impersonator_realm")
    elif of_type in _NAMED_BY_LOGIN or found.get("userId", "null") == "null":
        others = ("username",)
    for name in others:
        if names[name] == 1 and (match := _find_other[name](text)):
            found[name] = _without_quotes(match[1])
    if of_type in _BY_ANOTHER and names["impersonator"] and "impersonator" not in found:
        found = {name: found[name] for name in found if name not in ("userId", "username")}
    if left_out := sorted(name for name in names if name not in found):
        found[DOUBT] = ", ".join(left_out)
    return found


def _quoted_pairs(text: str) -> dict[str, str] | None:
    """The pairs of a line with quotes; None if there are none, or one within a value.

    At the level TRACE cookies follow, without quotes, as the browser has sent them.
    """
    quote = _find_quote(text)
    if quote is None or f"\\{quote[1]}" in text:
        return None
    found: dict[str, str] = {}
    end = 0
    while match := _match_quoted[quote[1]](text, end):
        found.setdefault(match[1], match[2])
        end = match.end()
    return found


def _first_pairs(text: str, names: Counter[str]) -> dict[str, str]:
    """The pairs that a line begins with; only the first two if others may have been typed."""
    for match in (_match_head(text), _match_start(text)):
        if match is None:
            continue
        groups = match.groups()
        pairs = zip(groups[::2], groups[1::2], strict=True)
        found = {name: _without_quotes(value) for name, value in pairs if name}
        if len(found) <= _CERTAIN or all(names[name] == 1 for name in found):
            return found
    return {}


def _without_quotes(value: str) -> str:
    is_quoted = value[:1] in ("'", '"') and value[1:].endswith(value[:1])
    return value[1:-1] if is_quoted else value
