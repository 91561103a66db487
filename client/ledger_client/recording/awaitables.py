"""Whether a call ends when what it returned is awaited, or at once."""

from types import CoroutineType
from typing import Final

_OF_COROUTINES: Final = frozenset({"send", "throw", "close"})
_OTHER_USES: Final = frozenset({"__aenter__", "__aiter__", "__enter__", "__iter__"})


def has(result: object, name: str) -> bool:
    """Whether the type has it. A lazy object would be evaluated by a question to itself."""
    try:
        return hasattr(type(result), name)
    except Exception:  # noqa: BLE001 - the application's metaclass
        return False


def is_only_awaited(result: object) -> bool:
    """Whether there is nothing to do with an object but to await it.

    A coroutine may then stand in its place. It may not for aiohttp's `session.get()`, which is for
    `async with` too, nor for a query of an ORM, which has methods.
    """
    if not has(result, "__await__"):
        return False
    kind = type(result)
    if kind is CoroutineType:
        return True
    try:
        names = set(dir(kind))
    except Exception:  # noqa: BLE001 - the application's metaclass
        return False
    own = names - _OF_COROUTINES
    return own.isdisjoint(_OTHER_USES) and all(
        name.startswith(("_", "cr_", "gi_", "ag_")) for name in own
    )
