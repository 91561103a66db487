"""Reads the object lock of an archive's bucket: whether anybody can delete its objects.

With the mode COMPLIANCE nobody can delete a version of an object before its time, the owner of the
account included. With GOVERNANCE, a person with a special right can. Without a lock, whoever has
the credentials of the uploader may delete everything.

obstore can't ask for this, so the AWS SDK does, once at a start.
"""

from datetime import datetime
from typing import Any, Final

from ledger.object_storage.place import REGION_DEFAULT, Place
from ledger.runtime.records import CheckedRecord
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import UnavailableError

_ABSENT: Final = frozenset(
    {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration", "NotImplemented"}
)


class LockState(CheckedRecord, frozen=True, kw_only=True):
    """The lock as the bucket reports it. `mode` is compliance, governance, or empty for no lock.

    `days`: how long each new object is kept. `until_unix_s`: until when the object is locked that
    was asked about, 0 when it isn't. `unknown`: why nothing could be read.
    """

    mode: str = ""
    days: int = 0
    until_unix_s: int = 0
    unknown: str = ""

    @property
    def is_safe(self) -> bool:
        """Whether nobody can delete a new object."""
        return self.mode == "compliance" and bool(self.until_unix_s) and not self.unknown

    def __str__(self) -> str:
        """`compliance until …`, or a warning."""
        if self.unknown:
            return f"not known, so objects may be deleted: {self.unknown}"
        if not self.mode:
            return "none: whoever has the credentials of the bucket can delete objects"
        if not self.until_unix_s:
            return (
                f"{self.mode}, but the newest object has no lock: whoever has the credentials of "
                "the bucket can delete it. Set a default retention of the bucket"
            )
        until = format_time(self.until_unix_s * 1_000_000).partition(".")[0]
        text = f"{self.mode} until {until}Z"
        if self.mode != "compliance":
            text += ": who has the right s3:BypassGovernanceRetention can delete objects before"
        return text


def read_lock(place: Place, name: str) -> LockState:
    """Read the lock of a bucket and of one of its objects. Blocks for two requests."""
    try:
        client = s3_client(place)
        default = ask_s3(client.get_object_lock_configuration, Bucket=place.bucket)
    except UnavailableError as error:
        return LockState(unknown=str(error))
    rule = default.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention", {})
    if not rule:
        return LockState()
    key = f"{place.prefix}/{name}" if place.prefix else name
    try:
        found = ask_s3(client.head_object, Bucket=place.bucket, Key=key)
    except UnavailableError as error:
        return LockState(unknown=str(error))
    until = found.get("ObjectLockRetainUntilDate")
    return LockState(
        mode=str(rule.get("Mode", "")).lower(),
        days=int(rule.get("Days") or 365 * int(rule.get("Years") or 0)),
        until_unix_s=int(until.timestamp()) if isinstance(until, datetime) else 0,
    )


def s3_client(place: Place) -> Any:
    """The client of the AWS SDK for a place."""
    import boto3  # Of the extra `archive`, and slow to import.
    from botocore.config import Config

    session = boto3.Session()
    timeouts = {"connect_timeout": place.timeout_s, "read_timeout": place.timeout_s}
    return session.client(
        "s3",
        endpoint_url=place.endpoint or None,
        region_name=place.region or session.region_name or REGION_DEFAULT,
        verify=place.ca_file or None,
        config=Config(
            retries={"max_attempts": 2},
            s3={"addressing_style": "path" if place.endpoint else "auto"},
            # Objects go where `place` says: their lock is not read from another server.
            ignore_configured_endpoint_urls=True,
            **timeouts,
        ),
    )


def ask_s3(method: Any, **arguments: str) -> dict[str, Any]:
    """Ask the bucket; the answer is empty if it has no such setting. Raises: UnavailableError."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer: dict[str, Any] = method(**arguments)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _ABSENT:
            return {}
        raise UnavailableError(f"the store answers {code}") from None
    except BotoCoreError as error:
        raise UnavailableError(f"the store can't be asked ({type(error).__name__})") from None
    return answer
