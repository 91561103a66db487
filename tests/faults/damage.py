"""Damaged files of a program that is not running: what its check says, and what it then answers.

A bit is flipped, a page zeroed, a file cut short or replaced by an older copy of itself. The check,
`fsck`, should name all of it. A program that starts must answer the truth, an error, or an answer
that says that it is not complete.
"""

import random
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

from tests.faults.damage_subjects import Examined, Examiner
from tests.faults.outcome import Case, Damaged, Problem
from tests.files import files_below

PAGE_BYTES: Final = 4096
UNKEPT: Final = ("lock.mdb", "writer.lock", "backup.lock", "lock")
"""Files whose content is nobody's data."""
OLDER: Final = "an older copy"
_replace_uuids = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}").sub


def damages(
    examiner: Examiner, scratch: Path, rng: random.Random, *, rounds: int
) -> Iterator[Case]:
    """Damaged copies of the prepared folder: each file in each way, so many times."""
    older, newer, folder = scratch / "older", scratch / "newer", scratch / "undamaged"
    examiner.prepare(older, newer)
    kept = examiner.damaged_part(newer)
    files = sorted(
        path.relative_to(newer)
        for path in files_below(kept)
        if path.stat().st_size and path.name not in UNKEPT
    )
    shutil.copytree(newer, folder)
    truth = examiner.examine(folder)
    shutil.rmtree(folder)
    assert not truth.is_named, "the undamaged folder is called damaged"
    for _ in range(rounds):
        for file, kind in rng.sample(
            list(product(files, sorted(_KINDS))), len(files) * len(_KINDS)
        ):
            seed = rng.randrange(1 << 32)
            yield partial(_damage, examiner, (older, newer), truth, file, kind, seed)


def _damage(
    examiner: Examiner,
    copies: tuple[Path, Path],
    truth: Examined,
    file: Path,
    kind: str,
    seed: int,
    scratch: Path,
) -> Damaged | None:
    (older, newer), folder = copies, scratch / "damaged"
    shutil.copytree(newer, folder)
    place = _KINDS[kind](folder / file, older / file, random.Random(seed))
    if (folder / file).read_bytes() == (newer / file).read_bytes():
        return None
    return _judge(examiner, folder, (file, kind, place), truth)


def _judge(
    examiner: Examiner, folder: Path, damage: tuple[Path, str, str], truth: Examined
) -> Damaged:
    found = examiner.examine(folder)
    file, kind, place = damage
    problems = [
        *found.problems,
        *(
            Problem("false answer", f"to {asked}")
            for asked, answer in found.answers.items()
            # An older copy gives answers that were true once; it must be named.
            if kind != OLDER and answer is not None and answer != truth.answers[asked]
        ),
    ]
    path = f"{examiner.name}: {_replace_uuids('RECORDER', str(file))}"
    differs = found.answers != truth.answers
    return Damaged(path, kind, place, found.is_named, differs, problems)


def _flip(file: Path, _older: Path, rng: random.Random) -> str:
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    return f"in byte {at}"


def _zero(file: Path, _older: Path, rng: random.Random) -> str:
    data = bytearray(file.read_bytes())
    page = rng.randrange(-(-len(data) // PAGE_BYTES))
    part = data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
    data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes(len(part))
    file.write_bytes(data)
    return str(page)


def _cut(file: Path, _older: Path, rng: random.Random) -> str:
    data = file.read_bytes()
    size = rng.randrange(len(data))
    if len(data) > PAGE_BYTES:
        size -= size % PAGE_BYTES
    file.write_bytes(data[:size])
    return f"to {size} bytes"


def _restore(file: Path, older: Path, _rng: random.Random) -> str:
    if older.is_file():
        file.write_bytes(older.read_bytes())
    return "from before"


_KINDS: Final[dict[str, Callable[[Path, Path, random.Random], str]]] = {
    "a flipped bit": _flip,
    "a zeroed page": _zero,
    "cut": _cut,
    OLDER: _restore,
}
