"""Patterns compiled by RE2, which a forked child must compile anew.

RE2 builds an automaton step by step, as texts need it. It does so under locks of its own and while
other threads of Python run. If the process forks at that moment, the child gets a lock that is held
for ever. So a child must drop what its parent compiled: a program that may fork registers
`forget_compiled` with `os.register_at_fork`, since this package knows nothing of processes.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final
from weakref import WeakSet

import re2

# An automaton grows as texts need it, and is built anew when it has this size.
_AUTOMATON_BYTES_MAX: Final = 64 << 20

_automata: "WeakSet[_Automaton]" = WeakSet()
_forgotten: list[object] = []
"""Objects of the parent. They are never destroyed, because their locks may be held."""


class _Automaton:
    """Something that RE2 compiled, and can compile again."""

    __slots__ = ("__weakref__", "_compile", "_compiled")

    def __init__(self, compile_: Callable[[], Any]) -> None:
        """Raises: ValueError for what is not RE2 syntax."""
        self._compile = compile_
        self._compiled: Any = compile_()
        _automata.add(self)

    def compiled(self) -> Any:
        """Return RE2's object. Cost: 10 ms for a hundred patterns, the first time in a child."""
        compiled = self._compiled
        if compiled is None:
            compiled = self._compiled = self._compile()
        return compiled

    def forget(self) -> None:
        """Compile the patterns anew when they are next needed."""
        if self._compiled is not None:
            _forgotten.append(self._compiled)
            self._compiled = None


class Pattern(_Automaton):
    """One pattern."""

    __slots__ = ()

    def __init__(self, pattern: str) -> None:
        super().__init__(partial(_compile, pattern))

    def is_in(self, text: str) -> bool:
        """Tell whether the pattern matches anywhere in the text."""
        return self.compiled().search(text) is not None

    def found_in(self, text: str) -> Iterator[str]:
        """Return every part of the text that matches, from left to right."""
        return (match.group() for match in self.matches_in(text))

    def matches_in(self, text: str) -> Iterator[Any]:
        """Return RE2's match of every part of the text that matches, from left to right."""
        matches: Iterator[Any] = self.compiled().finditer(text)
        return matches

    def replaced_in(self, text: str, replace: Callable[[str], str]) -> str:
        """Return the text with every part that matches replaced."""
        replaced: str = self.compiled().sub(lambda match: replace(match.group()), text)
        return replaced


class PatternSet(_Automaton):
    """Many patterns in one automaton, which reads a text once."""

    __slots__ = ()

    def __init__(self, patterns: Iterable[tuple[str, str]]) -> None:
        """`patterns`: pairs of a name, for errors, and a pattern."""
        super().__init__(partial(_compile_set, tuple(patterns)))

    def found_in(self, text: str | bytes) -> list[int]:
        """Return the numbers of the patterns that match anywhere in the text, unordered."""
        return (self._compiled or self.compiled()).Match(text) or []


def forget_compiled() -> None:
    """Compile everything anew when it is next needed. A forked child calls this first of all."""
    for automaton in tuple(_automata):
        automaton.forget()
    re2.purge()  # The module's cache would return the parent's objects.


def _options() -> re2.Options:
    options = re2.Options()
    options.max_mem = _AUTOMATON_BYTES_MAX
    options.log_errors = False
    return options


def _compile(pattern: str) -> Any:
    try:
        return re2.compile(pattern, _options())
    except re2.error:
        raise ValueError("not a pattern in RE2's syntax") from None


def _compile_set(patterns: tuple[tuple[str, str], ...]) -> re2.Set:
    compiled = re2.Set.SearchSet(_options())
    for name, pattern in patterns:
        try:
            compiled.Add(pattern)
        except re2.error:
            raise ValueError(f"rule {name}: not a pattern in RE2's syntax") from None
    compiled.Compile()
    return compiled
