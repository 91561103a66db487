"""The time of day in the units that events and cosignatures use."""

import time
from typing import Final

_NS_PER_US: Final = 1_000


def unix_us() -> int:
    """Microseconds since 1970, by this host's clock, which may be wrong and may jump."""
    return time.time_ns() // _NS_PER_US


def unix_s() -> int:
    """Whole seconds since 1970, by the same clock."""
    return int(time.time())
