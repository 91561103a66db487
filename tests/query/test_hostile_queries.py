"""A query of any form, and a text of any form, cost what their lengths give."""

import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from ledger.query import hints
from ledger.query.executor import find_matches
from ledger.query.plan import make_plan
from ledger_core.query import predicate, words
from ledger_core.query.analyzer import FOLDED_MOST, fold
from ledger_core.query.ast import Expression
from ledger_core.query.parser import LONG_CHARS_MAX, parse_query
from ledger_core.query.predicate import make_matcher, split_target
from ledger_core.search_answers import Histogram

ID_CHARS = 256
TIMES_LARGER = 8
LINEAR_MAX = 24
"""A cost that grows with the square is 64 times as large."""


def leaf_of(**fields: Any) -> bytes:
    event = {
        "action": "a.b",
        "actor": {"id": "u_5"},
        "id": "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50",
        "outcome": "success",
        "time": "2026-11-25T02:03:36.000000Z",
        **fields,
    }
    received = {"by": "app", "time": "2026-11-25T02:03:36.000000Z"}
    return msgspec.json.encode({"event": event, "received": received, "v": 1})


def process_s(work: Callable[[], object]) -> float:
    started_s = time.process_time()
    work()
    return time.process_time() - started_s


def test_a_target_means_no_more_pairs_than_an_id_is_long() -> None:
    assert split_target("a/b/c") == [("a", "b/c"), ("a/b", "c")]
    longest = ("t" * ID_CHARS, "i" * ID_CHARS)
    assert split_target("/".join(longest)) == [longest]
    assert len(split_target("/" * (2 * ID_CHARS))) <= ID_CHARS + 1
    assert split_target("/" * (LONG_CHARS_MAX - 7)) == []
    expression = parse_query("target:" + "/" * 300, is_long=True)
    make_plan(expression)
    assert make_matcher(expression)(0, leaf_of(targets=[{"type": "/" * 99, "id": "/" * 200}]))


@pytest.mark.parametrize("character", ["\N{LATIN SMALL LETTER SHARP S}", "\u0390"])
def test_a_target_is_found_by_its_folded_type_which_is_longer(character: str) -> None:
    of_type = character * ID_CHARS
    leaf = leaf_of(targets=[{"type": of_type, "id": "7"}])
    for wanted in (of_type, fold(of_type)):
        assert split_target(f"{wanted}/7") == [(wanted, "7")]
        expression = parse_query(f'target:"{wanted}/7"', is_long=True)
        assert make_matcher(expression)(0, leaf)
    assert not make_matcher(parse_query(f'target:"{fold(of_type)}s/7"', is_long=True))(0, leaf)


def test_no_character_is_folded_to_more_than_the_bound_says() -> None:
    longest = max(len(fold(chr(code))) for code in range(sys.maxunicode + 1))
    assert longest == FOLDED_MOST


def test_a_phrase_is_looked_for_in_a_time_that_grows_as_the_text_does() -> None:
    def cost_s(count: int) -> float:
        phrase = parse_query(f'"{"a " * count}b a"', is_long=True)
        leaf = leaf_of(changes=[{"path": "/text", "after": "a " * 2 * count}])
        return process_s(lambda: make_matcher(phrase)(0, leaf))

    small_s = max(min(cost_s(1_500) for _ in range(3)), 0.001)
    assert min(cost_s(1_500 * TIMES_LARGER) for _ in range(2)) < LINEAR_MAX * small_s


MARKS = "\u0301\u0316\u0344\u0334\u3099\uff9e\u0f73"


def inversions(text: str) -> int:
    """How often a combining mark of a text stands behind one that is sorted behind it."""
    # Each by itself: normalising the whole would sort them.
    decomposed = "".join(unicodedata.normalize("NFKD", char) for char in text)
    classes = list(map(unicodedata.combining, decomposed))
    return sum(0 < later < before for before, later in pairwise(classes))


@pytest.mark.parametrize("text", ["a" + MARKS * 500, "\u304b" + "\u3099\u0316" * 300 + " b\u0301"])
def test_marks_are_in_order_before_a_text_is_normalised(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalised: list[str] = []

    def note(form: Literal["NFKC"], text: str) -> str:
        normalised.append(text)
        return unicodedata.normalize(form, text)

    monkeypatch.setattr(
        words, "unicodedata", SimpleNamespace(normalize=note, combining=unicodedata.combining)
    )
    words.words_of(text)
    assert inversions(text) > 200
    assert normalised
    assert sum(map(inversions, normalised)) == 0


@given(st.text(st.one_of(st.characters(), st.sampled_from("ae" + MARKS)), max_size=80))
def test_marks_in_order_are_the_same_text(text: str) -> None:
    many = text + MARKS * 4 + text
    in_order = words.in_canonical_order(many)
    assert unicodedata.normalize("NFKC", in_order) == unicodedata.normalize("NFKC", many)


def test_the_words_of_a_text_are_found_once_for_all_phrases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """50,000 phrases took 8 s for one event of 4,000 words."""
    asked: list[str] = []

    def note(text: str) -> list[str]:
        asked.append(text)
        return words.words_of(text)

    monkeypatch.setattr(predicate, "words_of", note)
    for field in ("", "reason:"):
        asked.clear()
        phrases = " OR ".join(f'{field}"a b{number}"' for number in range(300))
        matches = make_matcher(parse_query(phrases, is_long=True))
        assert not matches(0, leaf_of(reason="a b " * 100))
        assert matches(0, leaf_of(reason="b1 a b299"))
        assert len(asked) < 30


def test_a_search_looks_at_its_time_after_each_row() -> None:
    over = iter([False] * 4 + [True] * 9)
    budget = SimpleNamespace(spend_rows=lambda count, **_: count, is_over=lambda: next(over))
    scope: Any = SimpleNamespace(
        budget=budget,
        leaf_cache=SimpleNamespace(readable=lambda indices: [b"leaf"] * len(indices)),
        matches=lambda index, _leaf: index % 2 == 0,
    )
    window: Any = SimpleNamespace(indices_of=list)
    bounds: Any = SimpleNamespace(is_exact=False, must=BitMap(), may=BitMap(range(20)))
    found = find_matches(scope, window, bounds, None, order="oldest")
    assert (list(found.members), found.unread_from) == ([0, 2, 4], 5)


def test_the_plan_of_a_long_phrase_is_as_large_as_that_of_a_shorter_one() -> None:
    def plan_of(count: int) -> str:
        text = " ".join(f"w{number:06}" for number in range(count))
        return repr(make_plan(parse_query(f'reason:"{text}"', is_long=True)))

    assert plan_of(100) == plan_of(1_000)


def test_a_long_phrase_is_not_kept() -> None:
    kept = words._cached_phrase_of.cache_info().currsize
    assert words.phrase_of("long " * 10_000)[0][:2] == ("long", "long")
    assert words._cached_phrase_of.cache_info().currsize == kept


def test_so_many_long_values_are_not_all_compared_for_a_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[int] = []

    def note(word: str, known: Sequence[str], *, count: int, cutoff: float) -> list[str]:
        compared.append(len(word) * sum(map(len, known)))
        return []

    monkeypatch.setattr(hints, "near_names", note)

    class View:
        def count(self, query: Expression) -> int | None:
            return 0 if "100" in str(query) else 1

        def hours(self, query: Expression) -> Histogram | None:
            return None

        def values(self, dimension: str) -> Counter[str]:
            return Counter(f"{number:0110}" for number in range(5_000))

    hints.find_hints(parse_query("action:" + "100" * 40), View())
    assert 0 < compared[0] <= hints._COMPARED_MAX
