"""The walk: reads each key and each text of an event, and copies the event without its secrets.

The cost is linear in the length of the event, whatever is nested in it. Each value is visited once;
whether it is harmless is computed once, from the leaves up. A text that is JSON itself is read once
more, and so is JSON in a text of that, down to `TEXT_DEPTH_MAX`. Beyond this depth, or when the
work for one event exceeds `WORK_MAX`, the text is masked as a whole by the rule `SCAN_LIMIT`.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from ledger_core.event.model import LIMITS
from ledger_core.event.secrets.folding import fold
from ledger_core.event.secrets.ids import ID_KEYS, is_random_id, names_id
from ledger_core.event.secrets.luhn import is_card_number
from ledger_core.event.secrets.rules import (
    LINE_RULES,
    KeyRule,
    is_digest,
    is_placeholder,
    is_value_key,
    names_by_row,
)
from ledger_core.event.secrets.text_members import (
    find_members,
    member_value,
    starts_json,
    sub_members,
)

if TYPE_CHECKING:
    from ledger_core.event.secrets.scanner import SecretRules

KEY_SHOWN_CHARS_MAX: Final = 64
PATH_SHOWN_CHARS_MAX: Final = 256
SCAN_LIMIT: Final = "scan-limit"
"""The rule of a text that nests too much JSON to be read to its end."""
WORK_MAX: Final = 1 << 20
"""Units of work for the JSON in the texts of one event: characters read, and `VALUE_WORK` a value.

An event of 64 KB that has no JSON in its texts needs at most a half of this.
"""
VALUE_WORK: Final = 8
LONG_TEXT_CHARS: Final = 200
"""In a text of so many characters, only the secret is masked, and so by `LINE_RULES` in any text.
Other shorter ones are masked whole."""
FIELD_CHARS: Final = min(LIMITS[name].most for name in ("name", "reason", "user_agent"))
"""The fields of the schema that are no ids take so many characters, or more."""
TEXT_DEPTH_MAX: Final = 4
"""JSON in a text in JSON in a text: so many levels of texts are read."""
_DEPTH_MAX: Final = 64
_DIGITS_END: Final = 10**19

_DIGEST_MASK_KEYS: Final = frozenset({"masked", "digest"})
_PAIR_NAMES: Final = ("name", "key", "path")
_PAIR_VALUES: Final = ("value", "values", "before", "after")

_is_commitment = re.compile(r"[A-Za-z0-9_-]{43}").fullmatch
_ITEM: Final = re.compile(r"\[[0-9]+\]\Z")
_FREE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("context",),
    "changes": ("before", "after"),
}
"""The keys that hold any JSON, by the path of their object without its index."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Hit(NamedTuple):
    """A secret: the rule that it matches, and where it is: `changes[0].after.password`.

    A key that is a secret itself is shown as `[key]`. `is_id`: the value is an id, which becomes a
    keyed digest instead of a mask that is the same for all.
    """

    path: str
    rule: str
    is_id: bool = False


class Work:
    """Counts the work of scanning one event: characters read, and `VALUE_WORK` for each value."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = 0


class _LimitError(Exception):
    """The JSON in a text nests too deep, or the work for this event is used up."""


class EventScan:
    """Copies one document without its secrets, and collects the hits.

    The document is an event (`text_depth` 0) or the JSON in one of its texts.
    """

    __slots__ = ("_harmless", "_named", "_redacted", "_rules", "_text_depth", "_work", "hits")

    def __init__(self, rules: "SecretRules", work: Work, text_depth: int = 0) -> None:
        self._rules = rules
        self._work = work
        self._text_depth = text_depth
        self._redacted: str | None = None
        """The JSON of the text that was read last, without its secrets, if it had any."""
        self._harmless: dict[int, tuple[object, bool]] = {}
        """By identity. The value is kept beside the answer, so that its id stays its own."""
        self._named: dict[str, dict[KeyRule, None]] = {}
        """Of the event's changes: the rules of the names in the row that a path stands in."""
        self.hits: list[Hit] = []

    def read_names(self, event: Any) -> None:
        """Read the names in the rows that an event's changes are of, before it is copied."""
        changes = event.get("changes") if isinstance(event, Mapping) else None
        if isinstance(changes, list | tuple):
            rows = names_by_row(changes).items()
            self._named = {row: self._rules_of_names(names) for row, names in rows}

    def copy(self, value: Any, path: str, *, depth: int, is_free: bool, is_id: bool = False) -> Any:
        """`is_free`: an object may be put here, not only a text of the schema.

        `is_id`: the value is an id by its key.

        Raises: _LimitError inside the JSON of a text.
        """
        self._spend(VALUE_WORK)
        if isinstance(value, str):
            rule, redacted = self._scan_text(value, is_free=is_free)
            if rule is None:
                return value
            if is_id:
                return self._hit_id(path, rule, value, is_free=is_free)
            masked = self._hit(path, rule, is_free=is_free)
            return masked if redacted is None else redacted
        if isinstance(value, int | float):
            digits = _digits(value)
            if not is_card_number(digits):
                return value
            if is_id:
                return self._hit_id(path, "card-number", str(int(value)), is_free=is_free)
            return self._hit(path, "card-number", is_free=is_free)
        if not isinstance(value, Mapping | list | tuple):
            return value
        if depth > _DEPTH_MAX:
            if self._text_depth:
                raise _LimitError
            return value  # No event nests so deep: it is refused later.
        if isinstance(value, Mapping):
            return self._copy_object(value, path, depth=depth, is_free=is_free)
        if all(map(_is_pair, value)):
            return [
                self._copy_pair(item, f"{path}[{position}]", depth=depth + 1, is_free=is_free)
                for position, item in enumerate(value)
            ]
        return [
            self.copy(item, f"{path}[{position}]", depth=depth + 1, is_free=is_free, is_id=is_id)
            for position, item in enumerate(value)
        ]

    def _copy_pair(self, pair: Any, path: str, *, depth: int, is_free: bool) -> Any:
        """Copy a header as servers pass it, `["Cookie", "sid=1"]`, in a list of such pairs."""
        rule = self._key_rule(*pair)
        if rule is None:
            return self.copy(pair, path, depth=depth, is_free=is_free)
        return [pair[0], self._hit(f"{path}[1]", rule, is_free=is_free)]

    def _copy_object(
        self, value: Mapping[Any, Any], path: str, *, depth: int, is_free: bool
    ) -> dict[Any, Any]:
        copied: dict[Any, Any] = {}
        pair_rule = self._pair_rule(value)
        free_keys = () if is_free else _FREE_KEYS.get(_ITEM.sub("", path), ())
        masked_keys = 0
        for key, member in value.items():
            if not isinstance(key, str):
                copied[key] = member
                continue
            in_free = is_free or key in free_keys
            kept, shown = key, key[:KEY_SHOWN_CHARS_MAX]
            key_secret = self._text_rule(key)
            if key_secret is not None:
                shown = "[key]"
                kept = base = f"masked.{key_secret}.name"
                while kept in copied or kept in value:
                    masked_keys += 1
                    kept = f"{base}-" if masked_keys == 1 else f"{base}-{masked_keys}"
                self.hits.append(Hit(_join(path, shown), key_secret))
            at = _join(path, shown)
            rule = self._key_rule(key, member)
            if rule is None and pair_rule is not None and _plain(key) in _PAIR_VALUES:
                rule = None if self._is_harmless(member) else pair_rule
            if rule is None and is_random_id(key, member):
                copied[kept] = member
            elif rule is None:
                is_id = names_id(key) is not None if in_free else key in ID_KEYS
                copied[kept] = self.copy(member, at, depth=depth + 1, is_free=in_free, is_id=is_id)
            else:
                copied[kept] = self._hit(at, rule, is_free=in_free)
        return copied

    def named_rule(self, names: Iterable[str], value: object) -> str | None:
        """Return the rule by which a value is a secret because of a name beside it."""
        return self._matching_rule(self._rules_of_names(names), value)

    def _rules_of_names(self, names: Iterable[object]) -> dict[KeyRule, None]:
        """The rules of the keys that have these names, each once: many cost no more than one."""
        rules: dict[KeyRule, None] = {}
        for name in names:
            if isinstance(name, str):
                self._spend(len(name))
                rules |= dict.fromkeys(self._rules.key_rules(name))
        return rules

    def _key_rule(self, key: str, value: object) -> str | None:
        """Return the rule by which the value of this key is a secret."""
        self._spend(len(key))
        return self._matching_rule(self._rules.key_rules(key), value)

    def _matching_rule(self, rules: Iterable[KeyRule], value: object) -> str | None:
        for rule in rules:
            passes = rule.passes and isinstance(value, str) and rule.passes(value)
            if not (passes or self._is_harmless(value) or (rule.of_texts and not _is_text(value))):
                return rule.rule
        return None

    def _pair_rule(self, value: Mapping[Any, Any]) -> str | None:
        """Return the rule of `{"name": "password", "value": …}` and of a change at "/password"."""
        members = [(_plain(key), member) for key, member in value.items() if isinstance(key, str)]
        values = [member for key, member in members if key in _PAIR_VALUES]
        if not values:
            return None
        names = [member for key, member in members if key in _PAIR_NAMES]
        rules = self._rules_of_names(names)
        path = value.get("path") if self._named else None
        if isinstance(path, str):
            row, _, key = path.rpartition("/")
            rules |= self._named.get(row, {}) if is_value_key(key) else {}
        found = (self._matching_rule(rules, each) for each in values)
        return next((rule for rule in found if rule is not None), None)

    def _scan_text(self, text: str, *, is_free: bool) -> tuple[str | None, str | None]:
        """Return the rule of a text, and the text with its secrets masked if it is long."""
        self._redacted = None
        rule = self._text_rule(text)
        if rule is None or rule == SCAN_LIMIT:
            return rule, None
        if len(text) < LONG_TEXT_CHARS and rule not in LINE_RULES:
            return rule, None
        redacted = self._redacted or self._redact(text)
        if not is_free:  # A field of the schema has a limit; the text was within it.
            redacted = redacted[: max(len(text), FIELD_CHARS)]
        # Only the outermost text is read again: if anything is left, all of it is masked.
        if not self._text_depth and self._text_rule(redacted) is not None:
            return rule, None
        return rule, redacted

    def _redact(self, text: str) -> str:
        self._spend(len(text))
        if starts_json(text):
            with suppress(_LimitError, RecursionError):
                self._hits_in_json(text)
            if self._redacted is not None:
                return self._redacted

        def replace_member(match: re.Match[str]) -> str:
            rule = self._key_rule(match["key"], member_value(match))
            value = match["text"] or match["plain"]
            if rule is None or not value:
                return match[0]  # All of the text is masked if a secret is left.
            return f"{match[0].removesuffix(value)}masked.{rule}"

        return sub_members(replace_member, self._rules.redact(text))

    def _text_rule(self, text: str) -> str | None:
        """Return the rule by which a text, or a part of it, is a secret."""
        self._spend(len(text))
        rule = self._rules.pattern_rule(text)
        if rule is not None:
            return rule
        if not starts_json(text):
            return self._member_rule(text)
        # A request body that was logged as a text is JSON as well.
        try:
            hits = self._hits_in_json(text)
        except (_LimitError, RecursionError):
            if self._text_depth:
                raise
            return SCAN_LIMIT
        return hits[0].rule if hits else None

    def _hits_in_json(self, text: str) -> list[Hit]:
        self._spend(len(text))
        try:
            if self._rules.is_clean(text.encode()):
                return []
            if self._text_depth == TEXT_DEPTH_MAX:
                raise _LimitError
            inner = _decode(text.removeprefix("\ufeff"))
        except (msgspec.MsgspecError, UnicodeEncodeError):
            rule = self._member_rule(text)
            return [] if rule is None else [Hit("", rule)]
        walk = EventScan(self._rules, self._work, self._text_depth + 1)
        copied = walk.copy(inner, "", depth=0, is_free=True)
        if walk.hits:
            self._redacted = _encode(copied).decode()
        return walk.hits

    def _member_rule(self, text: str) -> str | None:
        """Return the rule of the first secret member of the JSON in a text: `body={"otp": 1`."""
        for form in dict.fromkeys((text, fold(text))):
            for match in find_members(form):
                rule = self._key_rule(match["key"], member_value(match))
                if rule is not None:
                    return rule
        return None

    def _is_harmless(self, value: object, depth: int = 0) -> bool:
        """Tell whether a value can't be a secret, whatever its key: empty, yes or no, a mask."""
        if value is None or isinstance(value, bool):
            return True
        if isinstance(value, str):
            self._spend(len(value))
            return not value or is_placeholder(value) is not None
        if not isinstance(value, Mapping | list | tuple) or depth > _DEPTH_MAX:
            return False
        known = self._harmless.get(id(value))
        if known is None:
            self._spend(VALUE_WORK * len(value))
            is_mask = isinstance(value, Mapping) and self._is_mask(value)
            members = value.values() if isinstance(value, Mapping) else value
            harmless = is_mask or all(self._is_harmless(each, depth + 1) for each in members)
            known = self._harmless[id(value)] = (value, harmless)
        return known[1]

    def _is_mask(self, value: Mapping[Any, Any]) -> bool:
        if value.keys() == _DIGEST_MASK_KEYS:
            return is_digest(value["digest"]) and value["masked"] in self._rules.names
        if len(value) != 1:
            return False
        (key, member), *_ = value.items()
        if key == "masked":
            return isinstance(member, str) and member in self._rules.names
        is_hash = isinstance(member, str) and _is_commitment(member) is not None
        return key == "commitment" and is_hash

    def _hit(self, path: str, rule: str, *, is_free: bool) -> dict[str, str] | str:
        self.hits.append(Hit(path, rule))
        return {"masked": rule} if is_free else f"masked.{rule}"

    def _hit_id(self, path: str, rule: str, value: str, *, is_free: bool) -> dict[str, str] | str:
        self.hits.append(Hit(path, rule, is_id=True))
        if is_free:
            return {"masked": rule, "digest": self._rules.digest(value)}
        return self._rules.masked_id(rule, value)

    def _spend(self, units: int) -> None:
        self._work.done += units
        if self._text_depth and self._work.done > WORK_MAX:
            raise _LimitError


def _plain(key: str) -> str:
    return fold(key).lower()


def _digits(value: float) -> str:
    """The digits of a number as it is logged: without a fraction it is an integer there.

    Empty for one with a fraction, and for one that is longer than any card's. Source: RFC 8785
    §3.2.2.3.
    """
    if isinstance(value, bool) or not -_DIGITS_END < value < _DIGITS_END or value % 1:
        return ""
    return str(abs(int(value)))


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and [type(item) for item in value[:3]] == [str, str]


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list | tuple) and any(isinstance(item, str) for item in value)
    )


def _join(path: str, key: str) -> str:
    joined = f"{path}.{key}" if path else key
    return joined[:PATH_SHOWN_CHARS_MAX]
