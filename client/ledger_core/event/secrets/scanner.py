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
"""

import copy
import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, Self

import msgspec
import re2

from ledger_core.event.secrets.folding import CONTROLS, fold, fold_with_places, has_invisible
from ledger_core.event.secrets.re2_sets import Pattern, PatternSet
from ledger_core.event.secrets.rules import RULE_NAMES, KeyRule, PatternRule
from ledger_core.event.secrets.walk import SCAN_LIMIT, EventScan, Hit, Work

KEY_CACHED_CHARS_MAX: Final = 256
DIGEST_BYTES: Final = 16

_UNESCAPE_ROUNDS_MAX: Final = 4

_SEPARATORS: Final = "[-_. ]*"
_QUOTE: Final = "[\"']"
"""What stands around a key, in Python's notation too."""
_TAIL: Final = r"[-_. :/0-9\]]*"
_BEFORE_NAME: Final = r"/.$\["
"""What may precede the name of a key in the path of a change: `/user/token`."""

_ESCAPES: Final = {
    b'"': b'"', b"\\": b"\\", b"/": b"/", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r",
    b"t": b"\t",
}  # fmt: skip
_replace_escapes = re.compile(rb'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})').sub

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class SecretRules:
    """A set of rules, compiled. Threads may share it."""

    def __init__(self, keys: Iterable[KeyRule], patterns: Iterable[PatternRule]) -> None:
        """Raises: ValueError naming the rule whose pattern is not RE2 syntax."""
        self._digest_key = b""
        self._key_rules = tuple(keys)
        self._pattern_rules = tuple(patterns)
        own = [each.rule for each in self._key_rules]
        own += [each.rule for each in self._pattern_rules]
        self.names: Final = RULE_NAMES | {SCAN_LIMIT, *own}
        """The rules that a mask may name."""
        texts = [(each.rule, each.pattern) for each in self._pattern_rules]
        self._patterns = PatternSet(texts)
        keys_set = PatternSet(
            (each.rule, _key_pattern(each, start="^", end="$")) for each in self._key_rules
        )

        # The same few hundred keys come back all day.
        @lru_cache(maxsize=4096)
        def matching_keys(key: str) -> tuple[int, ...]:
            return tuple(sorted(keys_set.found_in(_without_surrogates(fold(key)))))

        self._matching_keys = matching_keys
        in_json = [
            (each.rule, _key_pattern(each, start=_QUOTE, end=_QUOTE)) for each in self._key_rules
        ]
        self._prefilter = PatternSet([*texts, *in_json])

        # Compiled when a text with other letters comes, which in many processes none does.
        @lru_cache(maxsize=1)
        def unbounded() -> PatternSet:
            return PatternSet([*((rule, _unbounded(each)) for rule, each in texts), *in_json])

        self._unbounded = unbounded
        self._spans: dict[tuple[int, bool], Pattern] = {}

    def keyed(self, key: bytes) -> Self:
        """The same rules with a key of at most 64 bytes for the digests of ids.

        Without one, whoever can guess an id can check the guess against its digest.
        """
        rules = copy.copy(self)
        rules._digest_key = key  # noqa: SLF001 - its own class
        return rules

    def digest(self, text: str) -> str:
        """The digest that replaces an id: 16 bytes in hex, always the same for one id and key."""
        data = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(
            data, key=self._digest_key, digest_size=DIGEST_BYTES, person=b"wl/id-digest"
        ).hexdigest()

    def masked_id(self, rule: str, text: str) -> str:
        """What stands for an id that is a secret by this rule."""
        return f"masked.{rule}.{self.digest(text)}"

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
        are texts of the schema and become `masked.<rule>`; a key becomes `masked.<rule>.name`. In
        a text of `LONG_TEXT_CHARS` or more, only the secret is replaced, by `masked.<rule>`. An id
        becomes `masked.<rule>.<digest>`, in a free value `{"masked": "<rule>", "digest": …}`.
        A value that no event may hold, such as a date, stays: its type refuses it later.
        """
        return self._scan(event)[0]

    def is_clean(self, event_json: bytes) -> bool:
        """Tell whether JSON in UTF-8 has no secret, by the prefilter; False where it may have."""
        if b"\\" not in event_json and b"\x7f" not in event_json and event_json.isascii():
            # Most events: there is nothing to unescape, and no control character, to fold.
            return not self._prefilter.found_in(event_json)
        for _ in range(_UNESCAPE_ROUNDS_MAX):
            plain = event_json
            if b"\\" in event_json:
                plain = _replace_escapes(_unescape, event_json)
                if b'\\"' in plain:
                    return False  # JSON in a text in a text.
            if self._prefilter.found_in(plain) or self._is_disguised(plain):
                return False
            # A text inside may be JSON, with escapes of its own.
            if b"\\" not in plain or plain == event_json:
                return True
            event_json = plain
        return False

    def _is_disguised(self, event_json: bytes) -> bool:
        """Tell whether the prefilter finds something where letters are of another form."""
        if event_json.isascii():
            # Only an escape can have been a control character, but for the last of them.
            folded = event_json.translate(None, CONTROLS)
            return len(folded) < len(event_json) and bool(self._unbounded().found_in(folded))
        text = _decode_pairs(event_json)
        folded_text = fold(text)
        return folded_text != text and bool(self._unbounded().found_in(folded_text))

    def mask_id(self, text: str) -> str:
        """Return what stands for an id in a masked event; the id itself if it is no secret."""
        masked: str = self.mask({"actor": {"id": text}})["actor"]["id"]
        return masked

    def walk(self, event: Any, work: Work | None = None) -> tuple[Any, tuple[Hit, ...]]:
        """Return the event without its secrets, and the hits, in order; without the prefilter."""
        walk = EventScan(self, work or Work())
        walk.read_names(event)
        return walk.copy(event, "", depth=0, is_free=False), tuple(walk.hits)

    def named_rule(self, names: Iterable[str], value: object) -> str | None:
        """Return the rule by which a value is a secret because of a name beside it.

        So it is of the row `{"name": "api_key", "value": "…"}`.
        """
        return EventScan(self, Work()).named_rule(names, value)

    def key_rules(self, key: str) -> list[KeyRule]:
        """Return the rules that match the name of a key, in the order of their table."""
        is_short = len(key) <= KEY_CACHED_CHARS_MAX
        matching = self._matching_keys if is_short else self._matching_keys.__wrapped__
        return [self._key_rules[index] for index in matching(key)]

    def pattern_rule(self, text: str) -> str | None:
        """Return the first rule whose pattern makes a text a secret, in whatever letters."""
        forms = _forms(text)
        for form in forms:
            for index in sorted(self._patterns.found_in(form)):
                rule = self._pattern_rules[index]
                if rule.is_secret is None or rule.is_secret(form):
                    return rule.rule
        quoted, *folded = forms
        for index in self._unbounded_in(quoted, folded):
            if any(self._hidden_parts(*fold_with_places(quoted), index, is_bounded=False)):
                return self._pattern_rules[index].rule
        return None

    def redact(self, text: str) -> str:
        """Return a text with `masked.<rule>` in the place of each part that a pattern matches."""
        quoted, *folded = _forms(text)
        for index in sorted(self._patterns.found_in(quoted)):
            rule = self._pattern_rules[index]
            quoted = self._span(index).replaced_in(quoted, rule.masked)
        for form in folded:
            for index in sorted(self._patterns.found_in(form)):
                quoted = self._redact_folded(quoted, index, is_bounded=True)
        for index in self._unbounded_in(quoted, folded):
            quoted = self._redact_folded(quoted, index, is_bounded=False)
        # A pattern may have matched the quotes too.
        return quoted.removeprefix('"').removesuffix('"')

    def _unbounded_in(self, quoted: str, folded: Sequence[str]) -> list[int]:
        """The patterns to look for beside invisible characters, which hide where a token begins."""
        if not folded or not has_invisible(quoted):
            return []
        found = self._unbounded().found_in(folded[0])
        return sorted(index for index in found if index < len(self._pattern_rules))

    def _redact_folded(self, text: str, index: int, *, is_bounded: bool) -> str:
        """Replace the parts of a text that match in other letters, or without invisible ones."""
        folded, places = fold_with_places(text)
        kept: list[str] = []
        end = 0
        for start, stop, masked in self._hidden_parts(folded, places, index, is_bounded=is_bounded):
            kept += text[end:start], masked
            end = stop
        return "".join([*kept, text[end:]])

    def _hidden_parts(
        self, folded: str, places: Sequence[int], index: int, *, is_bounded: bool
    ) -> Iterator[tuple[int, int, str]]:
        """Start, end and mask of the parts of a text in which a pattern finds a secret.

        Unless the pattern is to be bounded, as it says by `\b`, those alone that have an invisible
        character inside, before or behind them. Without one, what is before a token is seen.
        """
        gaps = [at for at in range(1, len(places)) if places[at] - places[at - 1] > 1]
        for match in self._span(index, is_bounded=is_bounded).matches_in(folded):
            start, end = match.span()
            masked = self._pattern_rules[index].masked(match.group())
            is_hidden = bisect_left(gaps, start) < bisect_right(gaps, end)
            if masked != match.group() and (is_bounded or is_hidden):
                yield places[start], places[end - 1] + 1, masked

    def _span(self, index: int, *, is_bounded: bool = True) -> Pattern:
        if (index, is_bounded) not in self._spans:
            span = self._pattern_rules[index].span
            pattern = Pattern(span if is_bounded else _unbounded(span))
            self._spans[index, is_bounded] = pattern
        return self._spans[index, is_bounded]

    def _scan(self, event: dict[str, Any]) -> tuple[dict[str, Any], tuple[Hit, ...]]:
        try:
            if self.is_clean(_encode(event)):
                return event, ()
        except (TypeError, UnicodeEncodeError, ValueError, RecursionError):
            pass  # Not JSON; the walk reads those parts of it that are.
        return self.walk(event)


def _forms(text: str) -> tuple[str, ...]:
    """A text between quotes, and once more in plain letters if it has others."""
    quoted = f'"{_without_surrogates(text)}"'
    folded = fold(quoted)
    return (quoted,) if folded == quoted else (quoted, folded)


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates, which RE2 does not take; such texts are refused later."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _decode_pairs(event_json: bytes) -> str:
    """Decode JSON whose escapes were replaced: a pair of surrogates is one character."""
    try:
        text = event_json.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return event_json.decode("utf-8", "replace")
    if b"\xed" not in event_json:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _unescape(match: re.Match[bytes]) -> bytes:
    escape = match.group()
    plain = _ESCAPES.get(escape[1:])
    return plain or chr(int(escape[2:].decode(), 16)).encode("utf-8", "surrogatepass")


def _unbounded(pattern: str) -> str:
    """A pattern in RE2 syntax without what it says about the bounds of words."""
    return re.sub(r"(\\\\)|\\b", lambda match: match[1] or "(?:)", pattern)


def _key_pattern(rule: KeyRule, *, start: str, end: str) -> str:
    """Build the pattern of a whole key between `start` and `end`."""
    kinds = []
    if rule.endings:
        before = f"(?:{start}|[^{rule.not_after}])" if rule.not_after else ""
        kinds.append(f"{before}(?:{'|'.join(map(_words, rule.endings))})")
    if rule.names:
        kinds.append(f"(?:{start}|[{_BEFORE_NAME}])(?:{'|'.join(map(_words, rule.names))})")
    flags = "" if rule.is_case_kept else "(?i)"
    return f"{flags}(?:{'|'.join(kinds)}){_TAIL}{end}"


def _words(text: str) -> str:
    return _SEPARATORS.join(re2.escape(word) for word in text.split())
