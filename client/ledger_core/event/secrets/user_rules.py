"""A user's file of rules: it adds rules to the built-in ones, and turns some of these off.

    off = ["card-number"]

    [[keys]]                          # names whose values are secret, whatever they look like
    rule = "door-code"
    endings = ["door code"]           # also frontDoorCode and front_door_code
    names = ["gate"]                  # this key alone

    [[patterns]]                      # texts; RE2 syntax, found anywhere in a text
    rule = "acme-token"
    pattern = '\\bacme_[0-9a-f]{32}\\b'

A pattern has no `^` and `$`: every text is read between quotes, so `"acme-[0-9]+"` is a whole text.
`rule` names what is found: small letters, digits and hyphens.
"""

import re
import tomllib
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ledger_core.event.model import whole_text
from ledger_core.event.secrets.re2_sets import Pattern
from ledger_core.event.secrets.rules import KEY_RULES, PATTERN_RULES, KeyRule, PatternRule
from ledger_core.event.secrets.scanner import SecretRules
from ledger_core.tlog.errors import MalformedError
from ledger_core.toml import parse_toml

FILE_BYTES_MAX: Final = 1 << 20

_RuleName = Annotated[str, whole_text(r"[a-z0-9][a-z0-9-]{0,63}")]
_Words = Annotated[str, whole_text(r"[^\s]+( [^\s]+)*", chars_max=128)]


class _Keys(msgspec.Struct, forbid_unknown_fields=True):
    rule: _RuleName
    endings: tuple[_Words, ...] = ()
    names: tuple[_Words, ...] = ()


class _Pattern(msgspec.Struct, forbid_unknown_fields=True):
    rule: _RuleName
    pattern: Annotated[str, Meta(min_length=1, max_length=1024)]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    off: tuple[str, ...] = ()
    keys: tuple[_Keys, ...] = ()
    patterns: tuple[_Pattern, ...] = ()


def parse_rules(text: str) -> SecretRules:
    """Read the built-in rules as a user's file changes them. Raises: MalformedError."""
    if len(text) > FILE_BYTES_MAX:
        raise MalformedError(f"rules of secrets: more than {FILE_BYTES_MAX} characters")
    try:
        file = msgspec.convert(parse_toml(text), _File)
        for pattern in file.patterns:
            _check_pattern(pattern)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError) as error:
        raise MalformedError(f"rules of secrets: {error}") from None
    known = {rule.rule for rule in KEY_RULES} | {rule.rule for rule in PATTERN_RULES}
    unknown = sorted(set(file.off) - known)
    if unknown:
        raise MalformedError(f"rules of secrets: off names {unknown[0]}, which is no rule")
    keys = [KeyRule(each.rule, each.endings, each.names) for each in file.keys]
    if any(not each.endings and not each.names for each in keys):
        raise MalformedError("rules of secrets: keys need endings or names")
    return SecretRules(
        [*(rule for rule in KEY_RULES if rule.rule not in file.off), *keys],
        [
            *(rule for rule in PATTERN_RULES if rule.rule not in file.off),
            *(PatternRule(each.rule, each.pattern) for each in file.patterns),
        ],
    )


def _check_pattern(pattern: _Pattern) -> None:
    bare = re.sub(r"\\[^Az]|\[\^?\]?(?:\\.|[^\]\\])*\]", "", pattern.pattern)
    if re.search(r"[$^]|\\[Az]", bare):
        raise ValueError(f'rule {pattern.rule}: ^ and $ have no meaning; a quote, ", ends a text')
    try:
        compiled = Pattern(pattern.pattern)
    except ValueError as error:
        raise ValueError(f"rule {pattern.rule}: {error}") from None
    if compiled.is_in('""'):
        raise ValueError(f"rule {pattern.rule}: the pattern finds something in an empty text")
