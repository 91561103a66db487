"""The time to wait after several failures in a row."""

from typing import Final

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
