"""Payment card numbers: an issuer's range, the length that belongs to it, and Luhn's check digit.

Sixteen digits are more often an order or a snowflake than a card, so all three must match, and the
digits must be alone or in the groups that cards are printed with. Two kinds are left out on
purpose: Visa numbers of 13 digits, which were withdrawn and look like article and telephone
numbers, and most of Maestro's range, which contains half of all numbers.

Source: ISO/IEC 7812-1, annex B (the check digit).
"""

import re
from typing import Final

_GAP: Final = "[ \u00a0\u2000-\u200a\u202f\u205f\u3000-]"
"""What stands between groups: a hyphen, or a blank of any width, in Python's and RE2's syntax."""

CARD_PATTERN: Final = (
    rf"\b[2-69][0-9]{{13,18}}\b|\b[2-69][0-9]{{3}}(?:{_GAP}[0-9]{{4}}){{3}}\b"
    rf"|\b3[0-9]{{3}}{_GAP}[0-9]{{6}}{_GAP}[0-9]{{4,5}}\b"
)
"""Text that may hold a card number, in RE2 syntax. A necessary condition."""

_RANGES: Final = (
    # First and last prefix, then the lengths.
    (4, 4, (16,)),  # Visa
    (51, 55, (16,)), (2221, 2720, (16,)),  # Mastercard
    (34, 34, (15,)), (37, 37, (15,)),  # American Express
    (6011, 6011, (16, 19)), (644, 659, (16, 19)),  # Discover
    (300, 305, (14,)), (36, 36, (14, 16)), (38, 39, (14, 16)),  # Diners Club
    (3528, 3589, (16,)),  # JCB
    (62, 62, (16, 17, 18, 19)),  # UnionPay
    (2200, 2204, (16,)),  # Mir
    (5018, 5018, (16,)), (5020, 5020, (16,)), (6304, 6304, (16,)), (6759, 6763, (16,)),  # Maestro
    (60, 60, (16,)),  # RuPay
    (9792, 9792, (16,)),  # Troy
)  # fmt: skip
_SHAPES: Final = frozenset({(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3)})
_runs = re.compile(rf"(?<![0-9A-Za-z_.])[0-9]+(?:{_GAP}[0-9]+)*(?![0-9A-Za-z_])").finditer


def has_card_number(text: str) -> bool:
    """Tell whether a text holds a card number, alone or printed in groups."""
    return any(_has_card(run.group()) for run in _runs(text))


def is_card_number(digits: str) -> bool:
    """Tell whether digits have the range, the length and the check digit of a card."""
    fits = any(
        len(digits) in lengths and low <= int(digits[: len(str(low))]) <= high
        for low, high, lengths in _RANGES
    )
    return fits and _luhn(digits)


def _has_card(run: str) -> bool:
    groups = re.split(_GAP, run)
    if any(is_card_number(group) for group in groups):
        return True
    if "-" in run:
        # Groups joined by a hyphen to others are parts of something longer, such as a UUID.
        return tuple(map(len, groups)) in _SHAPES and is_card_number("".join(groups))
    return any(
        tuple(map(len, groups[start : start + count])) in _SHAPES
        and is_card_number("".join(groups[start : start + count]))
        for count in (3, 4, 5)
        for start in range(len(groups) - count + 1)
    )


def _luhn(digits: str) -> bool:
    values = [int(digit) for digit in reversed(digits)]
    doubled = sum(sum(divmod(2 * value, 10)) for value in values[1::2])
    return (sum(values[::2]) + doubled) % 10 == 0
