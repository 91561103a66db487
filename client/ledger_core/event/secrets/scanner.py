"""The scan: finds the secrets in an event and masks them.

The common event has none, and must cost next to nothing. So the rules are one set of patterns,
compiled to one automaton, that reads the event's canonical bytes once: the prefilter. Only where
it finds something, the walk reads each key and each text by itself:

    {"actor": …, "context": {"headers": {"Authorization": "Bearer 3f9…"}}}
                prefilter:  ─────────── authorization" ──── something may be here
                walk:       context.headers.Authorization   rule "authorization"

The prefilter misses nothing that the walk would find, because no pattern has `^` or `$`, and each
text is read between quotes, as it is in JSON. Escapes would break this, so an event with a
backslash is written out without them first.

The cost is linear in the length of the event, whatever is nested in it. Each value is visited once;
whether it is harmless is computed once, from the leaves up. A text that is JSON itself is read once
more, and so is JSON in a text of that, down to `TEXT_DEPTH_MAX`. Beyond this depth, or when the
work for one event exceeds `WORK_MAX`, the text is masked as a whole by the rule `SCAN_LIMIT`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from ledger_core.event.secrets.luhn import is_card_number
from ledger_core.event.secrets.re2_sets import PatternSet, escape
from ledger_core.event.secrets.rules import KeyRule, PatternRule, is_placeholder

KEY_SHOWN_CHARS_MAX: Final = 64
PATH_SHOWN_CHARS_MAX: Final = 256
KEY_CACHED_CHARS_MAX: Final = 256

SCAN_LIMIT: Final = "scan-limit"
"""The rule of a text that nests too much JSON to be read to its end."""
WORK_MAX: Final = 1 << 20
"""Units of work for the JSON in the texts of one event: characters read, and `VALUE_WORK` a value.

An event of 64 KB that has no JSON in its texts needs at most a half of this.
"""
VALUE_WORK: Final = 8
TEXT_DEPTH_MAX: Final = 4
"""JSON in a text in JSON in a text: so many levels of texts are read."""
_DEPTH_MAX: Final = 64
_UNESCAPE_ROUNDS_MAX: Final = 4

_SEPARATORS: Final = "[-_. ]*"
_TAIL: Final = r"[-_. :/0-9\]]*"
_BEFORE_NAME: Final = r"/.$\["
"""What may precede the name of a key in the path of a change: `/user/token`."""

_RANDOM_ID_ENDINGS: Final = ("correlationid", "parentid", "requestid", "spanid", "traceid")
_NOT_LETTERS: Final = re.compile(r"[^A-Za-z]")
_is_hex_id = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}").fullmatch
"""As W3C trace contexts have them."""

_PAIR_NAMES: Final = ("name", "key", "path")
_PAIR_VALUES: Final = ("value", "values", "before", "after")

_MASKS: Final = ({"masked"}, {"commitment"})
_ITEM: Final = re.compile(r"\[[0-9]+\]$")
_FREE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("context",),
    "changes": ("before", "after"),
}
"""The keys that hold any JSON, by the path of their object without its index."""

_ESCAPES: Final = {
    b'"': b'"', b"\\": b"\\", b"/": b"/", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r",
    b"t": b"\t",
}  # fmt: skip
_replace_escapes = re.compile(rb'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})').sub

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Hit(NamedTuple):
    """A secret: the rule that it matches, and where it is: `changes[0].after.password`.

    A key that is a secret itself is shown as `[key]`.
    """

    path: str
    rule: str


class Work:
    """Counts the work of scanning one event: characters read, and `VALUE_WORK` for each value."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = 0


class SecretRules:
    """A set of rules, compiled. Immutable: threads may share it."""

    __slots__ = ("_key_rules", "_matching_keys", "_pattern_rules", "_patterns", "_prefilter")

    def __init__(self, keys: Iterable[KeyRule], patterns: Iterable[PatternRule]) -> None:
        """Raises: ValueError naming the rule whose pattern is not RE2 syntax."""
        self._key_rules = tuple(keys)
        self._pattern_rules = tuple(patterns)
        texts = [(each.rule, each.pattern) for each in self._pattern_rules]
        self._patterns = PatternSet(texts)
        keys_set = PatternSet(
            (each.rule, _key_pattern(each, start="^", end="$")) for each in self._key_rules
        )

        # The same few hundred keys come back all day.
        @lru_cache(maxsize=4096)
        def matching_keys(key: str) -> tuple[int, ...]:
            return tuple(sorted(keys_set.found_in(_without_surrogates(key))))

        self._matching_keys = matching_keys
        in_json = [(each.rule, _key_pattern(each, start='"', end='"')) for each in self._key_rules]
        self._prefilter = PatternSet([*texts, *in_json])

    def find(self, event: bytes | dict[str, Any]) -> tuple[Hit, ...]:
        """Find the secrets in an event, given as JSON in UTF-8 or as an object.

        Precondition: bytes are JSON that has been read already.
        Cost: 2 µs for an event of 480 bytes that has none, ten times that for one that is walked.
        """
        if not isinstance(event, bytes):
            return self._scan(event)[1]
        return () if self.is_clean(event) else self.walk(_decode(event))[1]

    def are_clean(self, events: Sequence[bytes]) -> bool:
        """Tell whether none of the events, JSON in UTF-8, has a secret; False where one may have.

        No pattern finds more or less in an event because of what surrounds its braces.
        Cost: 1.2 µs for an event of 480 bytes, when there are some dozens of them.
        """
        return self.is_clean(b"\n".join(events))

    def mask(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return the event without its secrets; the event itself if it has none.

        A value of `context`, `before` or `after` becomes `{"masked": "<rule>"}`. All other fields
        are texts of the schema and become `masked.<rule>`; a key becomes `masked.<rule>.name`.
        A value that no event may hold, such as a date, stays: its type refuses it later.
        """
        return self._scan(event)[0]

    def is_clean(self, event_json: bytes) -> bool:
        """Tell whether JSON in UTF-8 has no secret, by the prefilter; False where it may have."""
        for _ in range(_UNESCAPE_ROUNDS_MAX):
            plain = event_json
            if b"\\" in event_json:
                plain = _replace_escapes(_unescape, event_json)
                if b'\\"' in plain:
                    return False  # JSON in a text in a text.
            if self._prefilter.found_in(plain):
                return False
            # A text inside may be JSON, with escapes of its own.
            if b"\\" not in plain or plain == event_json:
                return True
            event_json = plain
        return False

    def walk(self, event: Any, work: Work | None = None) -> tuple[Any, tuple[Hit, ...]]:
        """Return the event without its secrets, and the hits, in order; without the prefilter."""
        walk = _Walk(self, work or Work())
        return walk.copy(event, "", depth=0, is_free=False), tuple(walk.hits)

    def key_rules(self, key: str) -> list[KeyRule]:
        """Return the rules that match the name of a key, in the order of their table."""
        is_short = len(key) <= KEY_CACHED_CHARS_MAX
        matching = self._matching_keys if is_short else self._matching_keys.__wrapped__
        return [self._key_rules[index] for index in matching(key)]

    def pattern_rule(self, text: str) -> str | None:
        """Return the first rule whose pattern makes a text a secret."""
        quoted = f'"{_without_surrogates(text)}"'
        for index in sorted(self._patterns.found_in(quoted)):
            rule: PatternRule = self._pattern_rules[index]
            if rule.is_secret is None or rule.is_secret(quoted):
                return rule.rule
        return None

    def _scan(self, event: dict[str, Any]) -> tuple[dict[str, Any], tuple[Hit, ...]]:
        try:
            if self.is_clean(_encode(event)):
                return event, ()
        except (TypeError, UnicodeEncodeError, ValueError, RecursionError):
            pass  # Not JSON; the walk reads those parts of it that are.
        return self.walk(event)


class _LimitError(Exception):
    """The JSON in a text nests too deep, or the work for this event is used up."""


class _Walk:
    """Copies one document without its secrets, and collects the hits.

    The document is an event (`text_depth` 0) or the JSON in one of its texts.
    """

    __slots__ = ("_harmless", "_rules", "_text_depth", "_work", "hits")

    def __init__(self, rules: SecretRules, work: Work, text_depth: int = 0) -> None:
        self._rules = rules
        self._work = work
        self._text_depth = text_depth
        self._harmless: dict[int, tuple[object, bool]] = {}
        """By identity. The value is kept beside the answer, so that its id stays its own."""
        self.hits: list[Hit] = []

    def copy(self, value: Any, path: str, *, depth: int, is_free: bool) -> Any:
        """`is_free`: an object may be put here, not only a text of the schema.

        Raises: _LimitError inside the JSON of a text.
        """
        self._spend(VALUE_WORK)
        if isinstance(value, str):
            rule = self._text_rule(value)
            return value if rule is None else self._hit(path, rule, is_free=is_free)
        if isinstance(value, int):
            if isinstance(value, bool) or not is_card_number(str(abs(value))):
                return value
            return self._hit(path, "card-number", is_free=is_free)
        if not isinstance(value, Mapping | list | tuple):
            return value
        if depth > _DEPTH_MAX:
            if self._text_depth:
                raise _LimitError
            return value  # No event nests so deep: it is refused later.
        if isinstance(value, Mapping):
            return self._copy_object(value, path, depth=depth, is_free=is_free)
        return [
            self.copy(item, f"{path}[{position}]", depth=depth + 1, is_free=is_free)
            for position, item in enumerate(value)
        ]

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
            if rule is None and pair_rule is not None and key.lower() in _PAIR_VALUES:
                rule = None if self._is_harmless(member) else pair_rule
            if rule is None and _is_random_id(key, member):
                copied[kept] = member
            elif rule is None:
                copied[kept] = self.copy(member, at, depth=depth + 1, is_free=in_free)
            else:
                copied[kept] = self._hit(at, rule, is_free=in_free)
        return copied

    def _key_rule(self, key: str, value: object) -> str | None:
        """Return the rule by which the value of this key is a secret."""
        self._spend(len(key))
        for rule in self._rules.key_rules(key):
            if not self._is_harmless(value) and (not rule.of_texts or _is_text(value)):
                return rule.rule
        return None

    def _pair_rule(self, value: Mapping[Any, Any]) -> str | None:
        """Return the rule of `{"name": "password", "value": …}` and of a change at "/password"."""
        members = {key.lower(): member for key, member in value.items() if isinstance(key, str)}
        values = [members[key] for key in _PAIR_VALUES if key in members]
        names = [members[key] for key in _PAIR_NAMES if isinstance(members.get(key), str)]
        found = (self._key_rule(name, each) for name in names for each in values)
        return next((rule for rule in found if rule is not None), None)

    def _text_rule(self, text: str) -> str | None:
        """Return the rule by which a text, or a part of it, is a secret."""
        self._spend(len(text))
        rule = self._rules.pattern_rule(text)
        if rule is not None or text[:1] not in ("{", "["):
            return rule
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
            inner = _decode(text)
        except (msgspec.MsgspecError, UnicodeEncodeError):
            return []
        walk = _Walk(self._rules, self._work, self._text_depth + 1)
        walk.copy(inner, "", depth=0, is_free=False)
        return walk.hits

    def _is_harmless(self, value: object, depth: int = 0) -> bool:
        """Tell whether a value can't be a secret, whatever its key: empty, yes or no, a mask."""
        if value is None or isinstance(value, bool):
            return True
        if isinstance(value, str):
            self._spend(len(value))
            return not value or is_placeholder(value)
        if not isinstance(value, Mapping | list | tuple) or depth > _DEPTH_MAX:
            return False
        known = self._harmless.get(id(value))
        if known is None:
            self._spend(VALUE_WORK * len(value))
            is_mask = isinstance(value, Mapping) and value.keys() in _MASKS
            members = value.values() if isinstance(value, Mapping) else value
            harmless = is_mask or all(self._is_harmless(each, depth + 1) for each in members)
            known = self._harmless[id(value)] = (value, harmless)
        return known[1]

    def _hit(self, path: str, rule: str, *, is_free: bool) -> dict[str, str] | str:
        self.hits.append(Hit(path, rule))
        return {"masked": rule} if is_free else f"masked.{rule}"

    def _spend(self, units: int) -> None:
        self._work.done += units
        if self._text_depth and self._work.done > WORK_MAX:
            raise _LimitError


def _is_random_id(key: str, value: object) -> bool:
    """Tell a trace's or a request's id in hexadecimal, one in 60,000 of which looks like a card."""
    return (
        isinstance(value, str)
        and _is_hex_id(value) is not None
        and _NOT_LETTERS.sub("", key).lower().endswith(_RANDOM_ID_ENDINGS)
    )


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates, which RE2 does not take; such texts are refused later."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _unescape(match: re.Match[bytes]) -> bytes:
    escape = match.group()
    plain = _ESCAPES.get(escape[1:])
    return plain or chr(int(escape[2:].decode(), 16)).encode("utf-8", "surrogatepass")


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list | tuple) and any(isinstance(item, str) for item in value)
    )


def _join(path: str, key: str) -> str:
    joined = f"{path}.{key}" if path else key
    return joined[:PATH_SHOWN_CHARS_MAX]


def _key_pattern(rule: KeyRule, *, start: str, end: str) -> str:
    """Build the pattern of a whole key between `start` and `end`."""
    kinds = []
    if rule.endings:
        kinds.append(f"(?:{'|'.join(map(_words, rule.endings))})")
    if rule.names:
        kinds.append(f"(?:{start}|[{_BEFORE_NAME}])(?:{'|'.join(map(_words, rule.names))})")
    return f"(?i)(?:{'|'.join(kinds)}){_TAIL}{end}"


def _words(text: str) -> str:
    return _SEPARATORS.join(escape(word) for word in text.split())
