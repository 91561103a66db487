"""Whether one leaf meets an expression, told from the leaf alone.

It decides what the index leaves open, and filters the live tail. It reads an event by the rules of
`terms`, but knows nothing of dimensions, cut values or overflows: where the index may only hint,
this is exact.
"""

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address

from ledger_core.query.analyzer import (
    ABSENT,
    REQUEST_KEY,
    TRACE_KEY,
    LeafView,
    decode_view,
    names_of,
    scalars,
    words_of,
)
from ledger_core.query.ast import (
    And,
    Between,
    Everything,
    Expression,
    IndexBetween,
    IndexIn,
    InNetwork,
    Is,
    Moment,
    Not,
    Or,
    Words,
    time_text,
)

Test = Callable[[int, LeafView], bool]
Matcher = Callable[[int, bytes], bool]


def make_matcher(expression: Expression) -> Matcher:
    """A test of an entry by its index and leaf. Cost: 2 to 5 µs a leaf.

    Precondition: the expression is resolved.
    """
    test = _test(expression)

    def matches(index: int, leaf: bytes) -> bool:
        return test(index, decode_view(leaf))

    return matches


def values_of(field: str, view: LeafView, *, key: str = "") -> list[str]:
    """The values of a field in an event; `key` is the path where it is `context`."""
    return [value for value in _READERS[field](view, key) if value != ABSENT]


def _test(expression: Expression) -> Test:
    match expression:
        case Everything():
            return lambda _index, _view: True
        case And(parts):
            tests = [_test(part) for part in parts]
            return lambda index, view: all(test(index, view) for test in tests)
        case Or(parts):
            tests = [_test(part) for part in parts]
            return lambda index, view: any(test(index, view) for test in tests)
        case Not(part):
            inner = _test(part)
            return lambda index, view: not inner(index, view)
        case IndexBetween(start, end):
            return lambda index, _view: start <= index < end
        case IndexIn(indices):
            chosen = frozenset(indices)
            return lambda index, _view: index in chosen
        case Is():
            return _test_value(expression)
        case Words():
            return _test_words(expression)
        case InNetwork():
            return _test_network(expression)
        case Between():
            return _test_time(expression)


def _test_value(condition: Is) -> Test:
    read, key, wanted = _READERS[condition.field], condition.key, condition.value
    if condition.is_prefix:
        return lambda _index, view: any(
            value.startswith(wanted) and value != ABSENT for value in read(view, key)
        )
    return lambda _index, view: wanted in read(view, key)


def _test_words(condition: Words) -> Test:
    *head, last = condition.words
    size = len(condition.words)

    def holds(text: str) -> bool:
        words = words_of(text)
        for start in range(len(words) - size + 1):
            end = words[start + size - 1]
            is_last = end.startswith(last) if condition.is_prefix else end == last
            if is_last and words[start : start + size - 1] == head:
                return True
        return False

    if condition.field:
        return lambda _index, view: view.event.reason != ABSENT and holds(view.event.reason)
    return lambda _index, view: any(
        text != ABSENT and holds(text)
        for text in (view.event.action, view.event.reason, *names_of(view.event))
    )


def _test_network(condition: InNetwork) -> Test:
    network = condition.network

    def is_inside(_index: int, view: LeafView) -> bool:
        ip = view.event.source.ip
        return ip != ABSENT and ip_address(ip) in network

    return is_inside


def _test_time(condition: Between) -> Test:
    # Times in the log have one form, whose order as text is their order.
    start, end = _bound(condition.start), _bound(condition.end)
    is_received = condition.field == "received"

    def is_between(_index: int, view: LeafView) -> bool:
        time = view.received.time if is_received else view.event.time
        return (start is None or start <= time) and (end is None or time < end)

    return is_between


def _bound(moment: Moment | None) -> str | None:
    return None if moment is None else time_text(moment)


def _context_values(view: LeafView, path: str) -> list[str]:
    return [
        text
        for key, value in view.event.context.items()
        # The path of what is inside begins with the key; a key may hold dots itself.
        if path.startswith(key)
        for found, text in scalars(key, value)
        if found == path
    ]


def _behalf_values(view: LeafView, _key: str) -> tuple[str, ...]:
    principal = view.event.actor.on_behalf_of
    return () if principal is None else (principal.id,)


_READERS: Mapping[str, Callable[[LeafView, str], Sequence[str]]] = {
    "action": lambda view, _: (view.event.action,),
    "actor": lambda view, _: (view.event.actor.id,),
    "actor.on_behalf_of": _behalf_values,
    "actor.type": lambda view, _: (view.event.actor.type,),
    "context": _context_values,
    "credential": lambda view, _: (view.event.actor.credential,),
    "field": lambda view, _: [change.path for change in view.event.changes],
    "id": lambda view, _: (view.event.id,),
    "outcome": lambda view, _: (view.event.outcome,),
    "request": lambda view, _: _context_values(view, REQUEST_KEY),
    "service": lambda view, _: (view.event.source.service,),
    "session": lambda view, _: (view.event.actor.session,),
    "source": lambda view, _: (view.event.source.ip,),
    "target": lambda view, _: [target.id for target in view.event.targets],
    "target.type": lambda view, _: [target.type for target in view.event.targets],
    "tenant": lambda view, _: (view.event.tenant,),
    "trace": lambda view, _: _context_values(view, TRACE_KEY),
}
