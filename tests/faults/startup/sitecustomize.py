"""Python imports this at its start, from PYTHONPATH: under libfaketime `time.sleep` fails (EINVAL).

With steady clocks that are true, libfaketime 0.9.10 refuses the call that `time.sleep` makes.
"""

import select
import time


def _sleep(seconds: float, /) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep  # type: ignore[assignment]  # It takes any number, the stub is narrower.
