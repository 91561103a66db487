"""The files below a folder that a running process changes.

`Path.rglob` raises when a folder is removed while it is being listed (Python 3.11); `os.walk`
leaves such a folder out.
"""

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path, suffix: str = "") -> Iterator[Path]:
    """Each file below a folder whose name ends with `suffix`; it may be gone when it is opened."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if name.endswith(suffix))
