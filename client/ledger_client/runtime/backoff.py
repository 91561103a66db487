"""The time to wait before a request is sent again.

It follows from the failures in a row, and from the `Retry-After` of the refusal.
"""

from email.utils import parsedate_to_datetime
from typing import Final

RETRY_AFTER_DIGITS_MAX: Final = 9
_EXPONENT_MAX: Final = 32
"""2^32 base delays are beyond any limit; a larger exponent could overflow a float."""


def exponential_s(failures: int, *, base_s: float, limit_s: float) -> float:
    """`base_s` after the first failure, twice as long after each further one, up to `limit_s`."""
    return min(limit_s, base_s * 2.0 ** min(max(failures - 1, 0), _EXPONENT_MAX))


def spread(delay_s: float, draw: float) -> float:
    """A wait from half of `delay_s` to all of it, so that clients don't come back together.

    `draw` is a random number in [0, 1).
    """
    return delay_s * (0.5 + draw / 2)


def parse_retry_after(text: str | None, *, unix_s: float) -> float | None:
    """The seconds that a Retry-After header asks to wait, None for none or one not understood.

    Source: RFC 9110 §10.2.3: a number of seconds, or an HTTP date, here against the clock `unix_s`.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:RETRY_AFTER_DIGITS_MAX])
    try:
        then = parsedate_to_datetime(text)
        return max(0.0, then.timestamp() - unix_s)
    except (ValueError, OverflowError):
        return None
