"""Files that are damaged, and the files below a folder that a running process changes.

`Path.rglob` raises when a folder is removed while it is being listed (Python 3.11); `os.walk`
leaves such a folder out.
"""

import os
from collections.abc import Iterator
from pathlib import Path


def flip_bit(path: Path, *, at: int) -> bytes:
    """Flip a bit of the byte at an offset; the file's content afterwards."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    return bytes(data)


def files_below(folder: Path, suffix: str = "") -> Iterator[Path]:
    """Each file below a folder whose name ends with `suffix`; it may be gone when it is opened."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if name.endswith(suffix))
