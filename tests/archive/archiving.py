"""A ledger's folder, its uploads to a bucket, and a proxy that plays a bad store."""

import asyncio
import http.client
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ledger.archive.uploader import Uploader
from ledger.follow.position import Cursor, FollowerPaths
from ledger.object_storage.config import KIND
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.open_log import open_log
from ledger.object_storage.place import Place
from ledger.store.writer import LogWriter
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.note import Signer
from tests.http_thread import HttpThread, QuietHandler, read_body
from tests.sinks.sinking import ORIGIN, Folder

SEED = bytes(range(32))
SMALL = 600
"""Two full bundles and a partial one."""


class ArchivedFolder(Folder):
    """The folder of a ledger whose heads are published by the test."""

    def grow(self, entries: int) -> None:
        """Append entries, and publish the head."""
        self.append(count=entries)
        self.publish()

    def publish(self, *, seed: bytes = SEED) -> None:
        """Publish the head of all entries, signed with the key of a seed."""
        with closing(LogWriter.open(self.directory / "log")) as writer:
            checkpoint = Checkpoint(ORIGIN, writer.head.tree_size, writer.head.root_hash)
            signature = Signer.generate(ORIGIN, seed=seed).sign(format_checkpoint(checkpoint))
            signed = SignedCheckpoint(checkpoint, (signature,))
            writer.commit([], checkpoints=[(checkpoint.tree_size, signed.note)])

    @property
    def policy(self) -> Path:
        """The policy file."""
        return self.directory / "policy"

    def upload(self, bucket: Bucket, *, name: str = "copy") -> None:
        """Upload what is new, as the follower does. Raises: as it."""
        asyncio.run(self.upload_async(bucket, name=name))

    def prepare(self, bucket: Bucket, *, name: str = "copy") -> None:
        """Only try the bucket, as `ledger archive test` does. Raises: as it."""
        asyncio.run(self.upload_async(bucket, name=name, is_trial=True))

    async def upload_async(
        self, bucket: Bucket, *, name: str = "copy", is_trial: bool = False
    ) -> None:
        """As `upload`, within an event loop; as `prepare` if it is a trial."""
        paths = FollowerPaths(self.directory, KIND, name)
        paths.make()
        with closing(open_log(self.directory / "log")) as log:
            uploader = Uploader(self.directory, log, bucket, Cursor(paths), requests_max=8)
            await uploader.prepare()
            if not is_trial:
                await uploader.upload()


def place_of(endpoint: str, bucket: str, prefix: str = "log") -> Place:
    """The place of an archive on a local server."""
    return Place(f"s3://{bucket}/{prefix}", endpoint=endpoint, timeout_s=30.0)


@dataclass(frozen=True)
class Reply:
    """An answer of the proxy in place of the server's."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Fault = Callable[[str, str], Reply | None]
"""Gets the method and the path; None passes the request on."""

Alteration = Callable[[str, bytes], bytes]
"""Gets the path and the body of an object that was asked for; the bytes to answer with."""


class BadStore(HttpThread):
    """A proxy before the object server. What it does may be replaced at any time.

    `loses`: by the method and the path, whether a request is done and its answer is lost.
    """

    def __init__(self, endpoint: str, *, address: str = "127.0.0.1") -> None:
        self.fault: Fault = lambda _method, _path: None
        self.alter: Alteration = lambda _path, body: body
        self.loses: Callable[[str, str], bool] = lambda _method, _path: False
        host = endpoint.removeprefix("http://")
        store = self

        class Handler(QuietHandler):
            def _pass_on(self) -> None:
                body = read_body(self)
                reply = store.fault(self.command, self.path)
                if reply is not None:
                    self._answer(reply.status, {"ETag": '"1"', **reply.headers}, reply.body)
                    return
                headers = dict(self.headers.items())
                with closing(http.client.HTTPConnection(host, timeout=60)) as connection:
                    connection.request(self.command, self.path, body, headers)
                    answer = connection.getresponse()
                    data = answer.read()
                    if store.loses(self.command, self.path):
                        self.close_connection = True
                        return
                    if self.command == "GET" and answer.status in {200, 206}:
                        data = store.alter(self.path, data)
                    self._answer(answer.status, dict(answer.getheaders()), data)

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(body)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    with suppress(ConnectionError):  # Who asked has gone.
                        self.wfile.write(body)

        for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
            setattr(Handler, f"do_{method}", Handler._pass_on)
        super().__init__(Handler, address=address)
        self.endpoint = self.url
