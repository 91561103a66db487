"""Reads the object lock of an archive's bucket: whether anybody can delete its objects.

With the mode COMPLIANCE nobody can delete a version of an object before its time, the owner of the
account included. With GOVERNANCE, a person with a special right can. Without a lock, whoever has
the credentials of the uploader may delete everything.

Nothing of this is asked for often, so the AWS SDK does it, once at a start.
"""

import time
from concurrent.futures import Future
from datetime import datetime
from threading import Thread
from types import SimpleNamespace
from typing import Any, Final

from ledger.object_storage.place import REGION_DEFAULT, Place
from ledger.runtime.records import CheckedRecord
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.text import printable

ANSWER_BYTES_MAX: Final = 4 << 20
"""A list of 1,000 names of 1,024 bytes is shorter."""

ANSWERS_WAIT: Final = 4
READ_BYTES: Final = 1 << 16
WORD_CHARS_MAX: Final = 64

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
        default = ask_s3(client.get_object_lock_configuration, place, Bucket=place.bucket)
    except UnavailableError as error:
        return LockState(unknown=str(error))
    rule = default.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention", {})
    if not rule:
        return LockState()
    key = f"{place.prefix}/{name}" if place.prefix else name
    try:
        found = ask_s3(client.head_object, place, Bucket=place.bucket, Key=key)
    except UnavailableError as error:
        return LockState(unknown=str(error))
    until = found.get("ObjectLockRetainUntilDate")
    return LockState(
        mode=word_of(rule.get("Mode", "")),
        days=int(rule.get("Days") or 365 * int(rule.get("Years") or 0)),
        until_unix_s=int(until.timestamp()) if isinstance(until, datetime) else 0,
    )


def s3_client(place: Place) -> Any:
    """The client of the AWS SDK for a place. Raises: UnavailableError."""
    import boto3  # Of the extra `archive`, and slow to import.
    from botocore.config import Config

    from ledger.object_storage.s3_requests import credential_errors

    config = Config(
        connect_timeout=place.timeout_s,
        read_timeout=place.timeout_s,
        retries={"max_attempts": 2},
        s3={"addressing_style": "path" if place.endpoint else "auto"},
        # Objects go where `place` says: their lock is not read from another server.
        ignore_configured_endpoint_urls=True,
    )
    with credential_errors(place.url):
        session = boto3.Session()
        client = session.client(
            "s3",
            endpoint_url=place.endpoint or None,
            region_name=place.region or session.region_name or REGION_DEFAULT,
            verify=place.ca_file or None,
            config=config,
        )
    _bound_answers(client, ANSWERS_WAIT * place.timeout_s)
    return client


def ask_s3(method: Any, place: Place, **arguments: str) -> dict[str, Any]:
    """Ask the bucket; the answer is empty if it has no such setting. Raises: UnavailableError.

    Waits for `ANSWERS_WAIT` times `timeout_s` of the place at most, whatever the store sends.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    asked: Future[dict[str, Any]] = Future()

    def ask() -> None:
        try:
            asked.set_result(method(**arguments))
        except BaseException as error:  # noqa: BLE001 - raised by who waits
            asked.set_exception(error)

    # A daemon: a store that sends its head byte by byte keeps no process from its end.
    Thread(target=ask, name="ledger-s3", daemon=True).start()
    try:
        return asked.result(ANSWERS_WAIT * place.timeout_s)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _ABSENT:
            return {}
        raise UnavailableError(f"the store answers {printable(code[:WORD_CHARS_MAX])}") from None
    except (TimeoutError, _LongAnswerError):
        raise UnavailableError("the store answers without an end, or not in time") from None
    # The SDK takes numbers, times and names as they come, and reads files of credentials.
    except (
        BotoCoreError,
        ResponseParserError,
        OSError,
        ValueError,
        TypeError,
        LookupError,
    ) as error:
        raise UnavailableError(f"the store can't be asked ({type(error).__name__})") from None


def word_of(value: object) -> str:
    """A word of an answer in lower case, as it may be stored and printed."""
    return printable(str(value)[:WORD_CHARS_MAX]).lower()


class _LongAnswerError(Exception):
    """An answer is longer, or takes longer, than any that is right."""


def _bound_answers(client: Any, limit_s: float) -> None:
    """Have the SDK read no more of an answer than is right: it would read each whole."""
    from botocore.awsrequest import AWSResponse

    send: Final = client._endpoint.http_session.send  # noqa: SLF001 - nothing else reads in parts

    def send_bounded(request: Any, **_others: Any) -> Any:
        request.stream_output = True
        answer = send(request)
        data, end_s = bytearray(), time.monotonic() + limit_s
        while piece := answer.raw.read1(READ_BYTES):
            data += piece
            if len(data) > ANSWER_BYTES_MAX or time.monotonic() > end_s:
                answer.raw.close()
                raise _LongAnswerError
        raw = SimpleNamespace(stream=lambda: [bytes(data)])
        return AWSResponse(answer.url, answer.status_code, answer.headers, raw)

    client.meta.events.register("before-send.s3", send_bounded)
