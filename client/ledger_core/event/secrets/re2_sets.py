"""Patterns as RE2's automata, which a forked child must compile anew.

RE2 builds an automaton bit by bit, as texts need it, under locks of its own and while other threads
of Python run. A fork in the middle of that leaves the child with a lock that nobody will ever give
back. So a child has to forget what its parent compiled; whoever may fork sees to it that
`forget_compiled` is called there (`os.register_at_fork`), for nothing here knows of processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, TypeVar
from weakref import WeakSet

import re2

T = TypeVar("T")

# The automaton is built as texts need it, and begins anew when it has this size.
_AUTOMATON_BYTES_MAX: Final = 64 << 20

_automata: "WeakSet[_Automaton[Any]]" = WeakSet()
_forgotten: list[object] = []
"""Never destroyed: a lock that somebody holds must not be."""


class _Automaton(ABC, Generic[T]):
    """Something compiled, that can be compiled again."""

    __slots__ = ("__weakref__", "_compiled")

    def __init__(self) -> None:
        """Raises: ValueError for what is no pattern."""
        self._compiled: T | None = self._compile()
        _automata.add(self)

    @abstractmethod
    def _compile(self) -> T: ...

    def compiled(self) -> T:
        """What RE2 made of it. Cost: 10 ms for a hundred patterns, the first time in a child."""
        compiled = self._compiled
        if compiled is None:
            compiled = self._compiled = self._compile()
        return compiled

    def forget(self) -> None:
        """Compile it anew when it is next needed."""
        if self._compiled is not None:
            _forgotten.append(self._compiled)
            self._compiled = None


class Pattern(_Automaton[Any]):
    """One pattern."""

    __slots__ = ("_pattern",)

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        super().__init__()

    def is_whole(self, text: str) -> bool:
        """Whether it is the whole text."""
        return self.compiled().fullmatch(text) is not None

    def is_in(self, text: str) -> bool:
        """Whether it is somewhere in the text."""
        return self.compiled().search(text) is not None

    def found_in(self, text: str) -> Iterator[str]:
        """Every part of the text that it is."""
        return (match.group() for match in self.compiled().finditer(text))

    def _compile(self) -> Any:
        try:
            return re2.compile(self._pattern, _options())
        except re2.error:
            raise ValueError("not a pattern in RE2's syntax") from None


class PatternSet(_Automaton[re2.Set]):
    """Many patterns in one automaton, which reads a text once."""

    __slots__ = ("_patterns",)

    def __init__(self, patterns: Iterable[tuple[str, str]]) -> None:
        """`patterns`: the name of each, for errors, and what it is."""
        self._patterns = tuple(patterns)
        super().__init__()

    def found_in(self, text: str | bytes) -> list[int]:
        """The numbers of those that are somewhere in the text, in no order."""
        return self.compiled().Match(text) or []

    def _compile(self) -> re2.Set:
        compiled = re2.Set.SearchSet(_options())
        for name, pattern in self._patterns:
            try:
                compiled.Add(pattern)
            except re2.error:
                raise ValueError(f"rule {name}: not a pattern in RE2's syntax") from None
        compiled.Compile()
        return compiled


def forget_compiled() -> None:
    """Compile everything anew when it is next needed: for a forked child, first of all."""
    for automaton in tuple(_automata):
        automaton.forget()
    re2.purge()  # It keeps what it compiled, for whoever asks for the same pattern.


def escape(text: str) -> str:
    """The pattern of a text."""
    escaped: str = re2.escape(text)
    return escaped


def _options() -> re2.Options:
    options = re2.Options()
    options.max_mem = _AUTOMATON_BYTES_MAX
    options.log_errors = False
    return options
