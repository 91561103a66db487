"""Finds the known names that are spelled most like a wrong one."""

from collections.abc import Collection
from difflib import SequenceMatcher
from itertools import takewhile
from operator import eq


def near_names(name: str, known: Collection[str], *, count: int, cutoff: float = 0.6) -> list[str]:
    """At most `count` of some names that are spelled like another, the most similar ones first.

    The similarity is `SequenceMatcher.ratio`, of 0 to 1, and at least `cutoff`. Of equally similar
    names the one with more of the same first letters comes first, then the one that is known first:
    `acter` has as much of `after` as of `actor`, and a person means `actor`.

    Cost: up to the product of the lengths, for each known name.
    """
    matcher = SequenceMatcher(b=name)
    found: list[tuple[float, int, int, str]] = []
    for place, each in enumerate(known):
        matcher.set_seq1(each)
        if matcher.real_quick_ratio() < cutoff or matcher.quick_ratio() < cutoff:
            continue
        ratio = matcher.ratio()
        if ratio >= cutoff:
            alike = sum(takewhile(bool, map(eq, name, each)))
            found.append((-ratio, -alike, place, each))
    return [each for *_, each in sorted(found)[:count]]
