"""Images of a folder after a power failure.

A run is recorded under strace with all bytes that it wrote. An image is what a disk may hold when
the power fails between two of its calls: of each file what was synced, and of what was written
since then any part, in sectors; of the names in folders those that were synced, and of the later
ones the first few, in order, as a journal keeps them. A file opened with O_DSYNC is synced by each
write. A program that was acknowledged something before that moment must still have it.

What no image shows: sectors that the disk itself damages, and a disk that lies about a sync.
"""

import hashlib
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from tests.faults import traced
from tests.faults.acknowledged import Acknowledgement
from tests.faults.outcome import Case, Outcome
from tests.faults.subjects import Subject, judge
from tests.files import files_below

SECTOR_BYTES: Final = 512
RECORDED: Final = (
    *("openat", "close", "lseek", "write", "writev", "pwrite64", "pwritev", "ftruncate"),
    *("fsync", "fdatasync", "mkdir", "rename", "link", "unlink", "unlinkat", "rmdir"),
)
# All of a write in hexadecimal; a commit of the ledger writes far less than this.
STRING_BYTES: Final = 1 << 22

_find_texts = re.compile(r'"((?:\\x[0-9a-f]{2})*)"').findall
_find_descriptor = re.compile(r"(\d+)<([^>]*)>").match
_find_numbers = re.compile(r", (\d+)(?=[,)])").findall
_find_result = re.compile(r"= (-?\d+)(?:<[^>]*>)?(?: .*)?$").search


Image = dict[Path, bytes | None]
"""The content of each file of a folder; None for a folder in it."""


@dataclass(slots=True)
class File:
    """A file by its content: what is synced, and the writes since then."""

    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    _written: bytes | None = None

    def write(self, offset: int, data: bytes | None) -> None:
        """Bytes at an offset, or with None the end of the file there."""
        self.pending.append((offset, data))
        self._written = None

    def sync(self) -> None:
        self.synced = self.written()
        self.pending.clear()

    def written(self) -> bytes:
        """All that was written; the same object until the next write."""
        if self._written is None:
            self._written = self.content(lambda: True)
        return self._written

    def content(self, keeps: Callable[[], bool]) -> bytes:
        """The content when of each pending sector `keeps` says whether it reached the disk."""
        data = bytearray(self.synced)
        for offset, written in self.pending:
            if written is None:
                if keeps():
                    del data[offset:]
                    data.extend(bytes(offset - len(data)))
                continue
            for start, part in _sectors(offset, written):
                if keeps():
                    data.extend(bytes(max(0, start + len(part) - len(data))))
                    data[start : start + len(part)] = part
        return bytes(data)


def _decode(text: str) -> str:
    """A path that strace wrote in hexadecimal."""
    return bytes.fromhex(text.replace("\\x", "")).decode(errors="replace")


def _sectors(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        size = SECTOR_BYTES - (offset + at) % SECTOR_BYTES
        yield offset + at, data[at : at + size]
        at += size


class Disk:
    """The folder as the calls of a run change it, with what is synced and what is not."""

    def __init__(self, folder: Path, prepared: Path) -> None:
        self._folder = folder
        self._files: list[File] = []
        self._names: dict[Path, int | None] = {}
        for path in sorted(prepared.rglob("*")):
            number = None
            if path.is_file():
                number = len(self._files)
                self._files.append(File(path.read_bytes()))
            self._names[path.relative_to(prepared)] = number
        self._synced_names = dict(self._names)
        self._pending_names: list[tuple[Path, dict[Path, int | None]]] = []
        self._positions: dict[tuple[str, str], int] = {}
        self._synchronous: set[tuple[str, str]] = set()

    def apply(self, line: traced.Line) -> bool:
        """Apply one call; returns whether it changed anything."""
        result = _find_result(line.rest)
        if result is None or int(result[1]) < 0:
            return False
        name = "unlink" if line.name in {"rmdir", "unlinkat"} else line.name
        name = "write" if name == "writev" else name
        name = "pwrite" if name in {"pwrite64", "pwritev"} else name
        name = "sync" if name in {"fsync", "fdatasync"} else name
        return bool(getattr(self, f"_{name}")(line, int(result[1])))

    def image(self, to: Path, *, rng: random.Random, share: float) -> None:
        """Write an image in which a share between 0 and 1 of what is not synced is on the disk."""

        def keeps() -> bool:
            return rng.random() < share

        names = dict(self._synced_names)
        if count := rng.randint(0, len(self._pending_names)):
            names = self._pending_names[count - 1][1]
        _write_image(
            {
                path: None if number is None else self._files[number].content(keeps)
                for path, number in names.items()
                if path.name != "lock.mdb"
            },
            to,
        )

    def snapshot(self, *, is_synced_only: bool) -> Image:
        """The files with what is synced, or with all that was written; None for a folder."""
        names = self._synced_names if is_synced_only else self._names
        return {
            path: None
            if number is None
            else self._files[number].synced
            if is_synced_only
            else self._files[number].written()
            for path, number in names.items()
            if path.name != "lock.mdb"
        }

    def contents(self) -> dict[Path, bytes]:
        """Each file as the running program sees it."""
        return {
            path: self._files[number].written()
            for path, number in self._names.items()
            if number is not None
        }

    def _relative(self, path: str) -> Path | None:
        found = Path(path)
        return found.relative_to(self._folder) if found.is_relative_to(self._folder) else None

    def _opened(self, line: traced.Line) -> tuple[tuple[str, str], Path | None]:
        found = _find_descriptor(line.rest)
        if found is None:
            return ("", ""), None
        path = _decode(found[2])
        return (found[1], path), self._relative(path)

    def _paths(self, line: traced.Line) -> list[Path | None]:
        return [self._relative(_decode(text)) for text in _find_texts(line.rest)]

    def _file(self, path: Path | None) -> File | None:
        number = None if path is None else self._names.get(path)
        return None if number is None else self._files[number]

    def _rename_in(self, parent: Path) -> bool:
        self._pending_names.append((parent, dict(self._names)))
        return True

    def _openat(self, line: traced.Line, result: int) -> bool:
        (path,) = self._paths(line)[:1] or (None,)
        if path is None or "O_DIRECTORY" in line.rest:
            return False
        key = (str(result), str(self._folder / path))
        self._positions[key] = 0
        self._synchronous.discard(key)
        if "SYNC" in line.rest:
            self._synchronous.add(key)
        file = self._file(path)
        if file is None and "O_CREAT" in line.rest:
            self._names[path] = len(self._files)
            self._files.append(File())
            return self._rename_in(path.parent)
        if file is not None and "O_TRUNC" in line.rest:
            file.write(0, None)
            return True
        if file is not None and "O_APPEND" in line.rest:
            self._positions[key] = len(file.written())
        return False

    def _close(self, line: traced.Line, _result: int) -> bool:
        self._positions.pop(self._opened(line)[0], None)
        return False

    def _lseek(self, line: traced.Line, result: int) -> bool:
        self._positions[self._opened(line)[0]] = result
        return False

    def _write(self, line: traced.Line, result: int) -> bool:
        key, path = self._opened(line)
        offset = self._positions.get(key, 0)
        self._positions[key] = offset + result
        return self._store(key, path, offset, line)

    def _pwrite(self, line: traced.Line, _result: int) -> bool:
        key, path = self._opened(line)
        return self._store(key, path, int(_find_numbers(line.rest)[-1]), line)

    def _store(
        self, key: tuple[str, str], path: Path | None, offset: int, line: traced.Line
    ) -> bool:
        file = self._file(path)
        if file is None:
            return False
        data = b"".join(bytes.fromhex(t.replace("\\x", "")) for t in _find_texts(line.rest))
        file.write(offset, data)
        if key in self._synchronous:
            # It syncs this write alone; LMDB has synced the others before.
            file.sync()
        return True

    def _ftruncate(self, line: traced.Line, _result: int) -> bool:
        file = self._file(self._opened(line)[1])
        if file is not None:
            file.write(int(_find_numbers(line.rest)[-1]), None)
        return file is not None

    def _sync(self, line: traced.Line, _result: int) -> bool:
        path = self._opened(line)[1]
        file = self._file(path)
        if file is not None:
            file.sync()
        elif path is not None:
            last = max(
                (at for at, (parent, _) in enumerate(self._pending_names) if parent == path),
                default=-1,
            )
            # A journal commits in order: all that came before is synced with it.
            if last >= 0:
                self._synced_names = self._pending_names[last][1]
                del self._pending_names[: last + 1]
        return path is not None

    def _mkdir(self, line: traced.Line, _result: int) -> bool:
        (path,) = self._paths(line)[:1]
        if path is None:
            return False
        self._names[path] = None
        return self._rename_in(path.parent)

    def _rename(self, line: traced.Line, _result: int) -> bool:
        source, target = self._paths(line)[:2]
        if source is None or target is None:
            return False
        moved = {
            path: number for path, number in self._names.items() if path.is_relative_to(source)
        }
        for path, number in moved.items():
            del self._names[path]
            self._names[target / path.relative_to(source)] = number
        return self._rename_in(target.parent)

    def _link(self, line: traced.Line, _result: int) -> bool:
        source, target = self._paths(line)[:2]
        if source is None or target is None or source not in self._names:
            return False
        self._names[target] = self._names[source]
        return self._rename_in(target.parent)

    def _unlink(self, line: traced.Line, _result: int) -> bool:
        (path,) = [each for each in self._paths(line) if each is not None][:1] or (None,)
        if path is None or path not in self._names:
            return False
        del self._names[path]
        return self._rename_in(path.parent)


@dataclass(frozen=True, slots=True)
class _Recorded:
    folder: Path
    lines: Sequence[traced.Line]
    acknowledged: list[Acknowledgement]


_records: dict[Path, _Recorded] = {}


def power_failures(
    subject: Subject, prepared: Path, _scratch: Path, *, rng: random.Random
) -> Iterator[Case]:
    """Each image of what was synced, once."""
    yield from _each_once(subject, prepared, "power failure, synced only", rng=rng)


def partial_power_failures(
    subject: Subject, prepared: Path, _scratch: Path, *, rng: random.Random
) -> Iterator[Case]:
    """Without end images that have a part of what was not synced."""
    recorded = _record(subject, prepared)
    moments = _moments(recorded, prepared)
    while True:
        moment, seed = rng.choice(moments), rng.randrange(1 << 32)
        yield partial(_fail_in_part, subject, prepared, moment, seed)


def kills(
    subject: Subject, prepared: Path, _scratch: Path, *, rng: random.Random
) -> Iterator[Case]:
    """What a kill leaves after each call that changes anything, once: all that was written."""
    yield from _each_once(subject, prepared, "killed after a call", rng=rng)


def _each_once(
    subject: Subject, prepared: Path, fault: str, *, rng: random.Random
) -> Iterator[Case]:
    """A case for each different image; images that have the same content are one."""
    recorded = _record(subject, prepared)
    different: dict[bytes, tuple[int, Image]] = {}
    disk = Disk(recorded.folder, prepared)
    for moment, line in enumerate(recorded.lines, 1):
        if disk.apply(line):
            image = disk.snapshot(is_synced_only=fault.endswith("synced only"))
            different.setdefault(_digest(image), (moment, image))
    images = list(different.values())
    rng.shuffle(images)
    for moment, image in images:
        yield partial(
            _judge, subject, recorded, moment, partial(_write_image, image), fault, len(images)
        )


def _fail_in_part(
    subject: Subject, prepared: Path, moment: int, seed: int, scratch: Path
) -> Outcome:
    recorded = _record(subject, prepared)
    disk = Disk(recorded.folder, prepared)
    for line in recorded.lines[:moment]:
        disk.apply(line)
    write = partial(disk.image, rng=random.Random(seed), share=0.5)
    fault = "power failure, a part of the rest"
    return _judge(subject, recorded, moment, write, fault, None, scratch)


def _judge(
    subject: Subject,
    recorded: _Recorded,
    moment: int,
    write: Callable[[Path], None],
    fault: str,
    total: int | None,
    scratch: Path,
) -> Outcome:
    """Start the program on an image, and hold it against what was acknowledged by then."""
    folder = scratch / "folder"
    folder.mkdir(mode=0o700)
    write(folder)
    end_s = recorded.lines[moment].unix_s if moment < len(recorded.lines) else float("inf")
    before = [each for each in recorded.acknowledged if each.unix_s < end_s]
    problems = judge(subject, folder, before)
    return Outcome(subject.name, fault, f"after call {moment}", True, problems, total)


def _digest(image: Image) -> bytes:
    hashed = hashlib.sha256()
    for path, content in sorted(image.items()):
        hashed.update(str(path).encode() + b"\0")
        hashed.update(b"" if content is None else _content_digest(content))
    return hashed.digest()


@lru_cache(maxsize=256)
def _content_digest(content: bytes) -> bytes:
    """Most files are the same object in most images, whose own hash Python keeps."""
    return hashlib.sha256(content).digest()


def _write_image(image: Image, to: Path) -> None:
    for path, content in sorted(image.items()):
        if content is None:
            (to / path).mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            (to / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (to / path).write_bytes(content)
            (to / path).chmod(0o600)


def _record(subject: Subject, prepared: Path) -> _Recorded:
    """A run of a subject with all bytes that it wrote; made once for each prepared folder."""
    if prepared in _records:
        return _records[prepared]
    folder = prepared.with_name("recorded")
    shutil.copytree(prepared, folder)
    run = traced.run(
        subject.command(folder),
        lambda output: subject.work(folder, output),
        prepared.with_name("recorded.strace"),
        *("--seccomp-bpf", "-xx", f"-s{STRING_BYTES}", f"--trace={','.join(RECORDED)}"),
    )
    recorded = _Recorded(folder, list(run.lines()), run.acknowledged)
    _check_record(recorded, prepared)
    shutil.rmtree(folder)
    _records[prepared] = recorded
    return recorded


def _check_record(recorded: _Recorded, prepared: Path) -> None:
    """All calls together must give the files that the program left: nothing was missed."""
    disk = Disk(recorded.folder, prepared)
    for line in recorded.lines:
        disk.apply(line)
    contents = disk.contents()
    assert {path for path in contents if path.name != "lock.mdb"} == {
        path.relative_to(recorded.folder)
        for path in files_below(recorded.folder)
        if path.name != "lock.mdb"
    }
    for path, content in contents.items():
        if path.name != "lock.mdb":
            assert content == (recorded.folder / path).read_bytes(), path


def _moments(recorded: _Recorded, prepared: Path) -> list[int]:
    """The places in the run after a call that changed something."""
    disk = Disk(recorded.folder, prepared)
    return [at + 1 for at, line in enumerate(recorded.lines) if disk.apply(line)]
