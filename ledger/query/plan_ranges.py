"""Plans of ranges of delays and ports."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from ledger.query.plan_nodes import Find, Lookup, Range, Read
from ledger_core.event.model import LIMITS
from ledger_core.query import analyzer, ast

_MICROSECOND = Decimal("0.000001")
# More than the years that the log has times in.
_FIRST_DELAY, _LAST_DELAY = Decimal(-(10**12)), Decimal(10**12)


def plan_delay(condition: ast.NumberBetween) -> Lookup:
    """The steps inside the range, and as hints those across its ends."""
    steps = analyzer.LATE_STEPS_S
    must: list[int] = []
    hints: list[int] = []
    for place in range(2 * len(steps) + 1):
        above, is_step = divmod(place, 2)
        if is_step:
            if condition.holds(Decimal(steps[above])):
                must.append(place)
            continue
        first = Decimal(steps[above - 1]) + _MICROSECOND if above else _FIRST_DELAY
        last = Decimal(steps[above]) - _MICROSECOND if above < len(steps) else _LAST_DELAY
        if condition.holds(first) and condition.holds(last):
            must.append(place)
        elif _meets(condition, first, last):
            hints.append(place)
    return Lookup(_late_reads(must), _late_reads(hints))


def _meets(condition: ast.NumberBetween, first: Decimal, last: Decimal) -> bool:
    """Whether a number of `[first, last]` may be in the range; it may also say so in error."""
    low, high = condition.low, condition.high
    return (low is None or low <= last) and (high is None or high >= first)


def _late_reads(places: list[int]) -> tuple[Read, ...]:
    """The reads of places, neighbours as one range."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][1] == place:
            runs[-1][1] += 1
        else:
            runs.append([place, place + 1])
    return tuple(
        Find("late", f"{start:02d}")
        if end == start + 1
        else Range("late", f"{start:02d}", f"{end:02d}")
        for start, end in runs
    )


def plan_ports(condition: ast.NumberBetween) -> Lookup:
    """Ports are whole numbers, and their terms sort as they do."""
    most = LIMITS["port"].most
    low, high = 0, most
    if condition.low is not None:
        low = int(condition.low.to_integral_value(ROUND_CEILING))
        low += condition.is_above_low and low == condition.low
    if condition.high is not None:
        high = int(condition.high.to_integral_value(ROUND_FLOOR))
        high -= condition.is_below_high and high == condition.high
    low, high = max(low, 0), min(high, most)
    if low > high:
        return Lookup(())
    digits = analyzer.PORT_DIGITS
    return Lookup((Range(condition.field, f"{low:0{digits}d}", f"{high + 1:0{digits}d}"),))
