"""Notice a data file of LMDB that was cut short, before a read beyond its end ends the process.

LMDB maps the file into memory. A read of a page that the file does not have is no error, but a
SIGBUS, which no code can catch. So the size of the file is compared with the last page that LMDB
names. A sound file may be shorter: pages that a transaction took and gave back are in the list of
free pages, but were never written. So the free pages beyond the end are subtracted.
"""

import struct
from pathlib import Path
from typing import Final

from pyroaring import BitMap

from ledger.store.pages import free_pages, read_metas
from ledger_core.tlog.errors import MalformedError

UNWRITTEN_PAGES_MAX: Final = 1 << 16
"""More free pages beyond the end than any of our transactions leaves."""


def check_length(path: Path) -> None:
    """Compare the size of a data file with the pages that LMDB says it has.

    A file without a readable head is left to LMDB. Raises: MalformedError with both sizes.
    Cost: three reads, unless the file is shorter than its last page.
    """
    with path.open("rb") as file:
        found = read_metas(file)
        if not found:
            return
        meta = max(found, key=lambda each: each.transaction)
        size = file.seek(0, 2)
        missing = range(size // meta.page_bytes, meta.last_page + 1)
        if not missing:
            return
        try:
            is_sound = len(missing) <= UNWRITTEN_PAGES_MAX and free_pages(file, meta).issuperset(
                BitMap(missing)
            )
        except (struct.error, MalformedError):
            is_sound = False
    if not is_sound:
        raise MalformedError(
            f"{path} has {size} bytes, but LMDB says {(meta.last_page + 1) * meta.page_bytes}: "
            "the file was cut short; put back a copy that is whole"
        )
