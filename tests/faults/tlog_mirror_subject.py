"""`ledger tlog-mirror serve`, to which a log sends its checkpoints and entries, some at a time."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.mirror import MEDIA, Upload, encode_upload, parse_mirror_info
from ledger_core.tlog.note import verify_note
from ledger_core.tlog.tile import decode_bundle
from tests.faults.acknowledged import Acknowledged, Kept, Mirrored, Pending, acknowledge
from tests.faults.forked import ForkedService
from tests.faults.outcome import Problem
from tests.service.serving import Answer, send
from tests.tlog_mirror.sending import LEAVES, LOG, ORIGIN, SIGNERS, Tree, fork, make_tlog_mirror

FLAGS: Final = ("--log-level", "error")
COMMAND: Final = ("tlog-mirror", "serve")
SIZES: Final = (100, 300, 300, 601)
WHOLE: Final = 700


class TlogMirrorSubject:
    """A mirror of logs whose log grows while it sends prefixes and whole uploads."""

    name = "tlog-mirror"
    forked: tuple[str, ...] | None = ()

    def __init__(self) -> None:
        self._tree = Tree(LEAVES[:WHOLE])

    def prepare(self, folder: Path) -> None:
        """Make a mirror that knows the log."""
        make_tlog_mirror(folder, signers=SIGNERS[:1])

    def command(self, folder: Path) -> list[str]:
        """The program, as it runs with the fault."""
        listen = ("--listen", "127.0.0.1:0", *FLAGS)
        return [sys.executable, "-P", "-m", "ledger", *COMMAND, str(folder), *listen]

    def work(self, folder: Path, output: Iterator[str]) -> Acknowledged:
        """Send the log until it is whole or the mirror is gone; what was acknowledged."""
        acknowledged: Acknowledged = []
        url = next(output, "").strip().rpartition(" ")[2]
        if url.startswith("http"):
            with suppress(OSError, HTTPException):
                for result in self._send(url):
                    acknowledge(acknowledged, result)
        return acknowledged

    def judge(self, folder: Path, acknowledged: Acknowledged) -> list[Problem]:
        """Hold what the mirror serves against what it acknowledged, and have it go on."""
        results = [each.result for each in acknowledged]
        try:
            with serve_tlog_mirror(folder) as service:
                return list(self._problems(service.url, results))
        except UnavailableError as error:
            return [Problem("does not start", str(error))]

    def send(self, url: str, old: int, size: int) -> None:
        """Send all of a larger tree."""
        assert _post(url, "/add-checkpoint", self._tree.add_checkpoint(old, size)).status == 200
        assert _post(url, "/add-entries", self._tree.upload(old, size)).status == 200

    def answers(self, url: str) -> dict[str, Any]:
        """What a mirror shows after `send` up to 601, and whether it goes on; None for an error."""
        found: dict[str, Any] = {}
        for path in ("checkpoint", "tile/0/000", "tile/entries/000", "tile/entries/002.p/89"):
            answer = _get(url, f"{_folder()}/{path}")
            found[path] = answer.body if answer.status == 200 else None
        for name, path, body in (
            ("another history", "/add-checkpoint", fork().add_checkpoint(0, 601)),
            ("an earlier size", "/add-checkpoint", self._tree.add_checkpoint(300, 500)),
            ("the next size", "/add-checkpoint", self._tree.add_checkpoint(601, WHOLE)),
            ("entries again", "/add-entries", self._tree.upload(512, WHOLE)),
        ):
            answer = _post(url, path, body)
            found[name] = answer.status if answer.status in (200, 409) else None
        return found

    def _send(self, url: str) -> Iterator[Pending | Kept | Mirrored]:
        pending = next_entry = 0
        for size in SIZES:
            if (
                _post(url, "/add-checkpoint", self._tree.add_checkpoint(pending, size)).status
                != 200
            ):
                return
            pending = size
            yield Pending(size)
            while True:
                answer = _post(url, "/add-entries", self._tree.upload(next_entry, size, most=1))
                if answer.status == 202:
                    next_entry = parse_mirror_info(answer.body).next_entry
                    yield Kept(next_entry)
                    continue
                if answer.status != 200:
                    return
                next_entry = size
                yield Mirrored(size)
                break

    def _problems(self, url: str, results: Sequence[object]) -> Iterator[Problem]:
        mirrored = max((each.size for each in results if isinstance(each, Mirrored)), default=0)
        pending = max((each.size for each in results if isinstance(each, Pending)), default=0)
        kept = max((each.next_entry for each in results if isinstance(each, Kept)), default=0)
        served = self._served_size(url)
        if served < mirrored:
            yield Problem("lost", f"the checkpoint of size {mirrored}: {served} is served")
        # No checkpoint has this size, so the mirror says what it has.
        asked = _post(url, "/add-entries", encode_upload(Upload(ORIGIN, 0, WHOLE + 1)))
        if asked.status == 422 and not pending:
            size, next_entry = 0, 0
        else:
            size, next_entry, _ = parse_mirror_info(asked.body)
        if size < pending:
            yield Problem("lost", f"the pending checkpoint of size {pending}: {size} is known")
        if next_entry < max(kept, mirrored):
            yield Problem("lost", f"entries from {next_entry} on")
        yield from self._other_entries(url, next_entry)
        statuses = [
            _post(url, "/add-checkpoint", self._tree.add_checkpoint(size, WHOLE)).status,
            _post(url, "/add-entries", self._tree.upload(next_entry, WHOLE)).status,
        ]
        if statuses != [200, 200]:
            yield Problem("does not start", f"it does not go on from {size}: {statuses}")

    def _served_size(self, url: str) -> int:
        """The size of the checkpoint that is served, after its signatures were verified."""
        answer = _get(url, f"{_folder()}/checkpoint")
        if answer.status == 404:
            return 0
        checkpoint = parse_signed_checkpoint(answer.body)
        size = checkpoint.head.tree_size
        assert checkpoint.checkpoint == self._tree.signed(size).checkpoint
        for verifier in (LOG.verifier, SIGNERS[0].verifier):
            verify_note(checkpoint.as_note(), [verifier])
        return size

    def _other_entries(self, url: str, end: int) -> Iterator[Problem]:
        for first in range(0, end, 256):
            width = min(256, end - first)
            name = f"{first // 256:03d}" + ("" if width == 256 else f".p/{width}")
            bundle = _get(url, f"{_folder()}/tile/entries/{name}")
            if bundle.status != 200 or decode_bundle(bundle.body) != list(
                LEAVES[first : first + width]
            ):
                yield Problem("false answer", f"the entries from {first} on: {bundle.status}")


def serve_tlog_mirror(folder: Path) -> ForkedService:
    """The mirror in a folder, without a fault."""
    return ForkedService(folder, listen="127.0.0.1:0", command=COMMAND, flags=FLAGS)


def _folder() -> str:
    return f"/{sha256(ORIGIN.encode()).hexdigest()}"


def _post(url: str, path: str, body: bytes) -> Answer:
    return send(url, path, method="POST", body=body, headers={"Content-Type": MEDIA})


def _get(url: str, path: str) -> Answer:
    return send(url, path, method="GET", body=None, headers={})
