"""The address of an archive, `s3://bucket/prefix`, and the settings by which it is reached.

An archive is written to S3 alone. It is also read from `https://…`, where a bucket is public, and
from `file:///…`, a copy on a disk. Credentials are found as the AWS tools find them: variables,
~/.aws, the role of a machine or a container. They are never part of a place.
"""

import os
import re
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from ledger_client.messages import check_loopback
from ledger_core.tlog.errors import MalformedError

TIMEOUT_S: Final = 30.0
REGION_DEFAULT: Final = "us-east-1"
"""Where nothing says another one; servers that are not of AWS take any."""

ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""Variables that name another S3 server than that of AWS. The first that is set counts."""

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*)(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")


class Place(NamedTuple):
    """The address of an archive. `endpoint` is that of the S3 server, empty for AWS.

    `insecure` allows plain HTTP to another host; `anonymous` sends no credentials.
    """

    url: str
    endpoint: str = ""
    region: str = ""
    ca_file: str = ""
    insecure: bool = False
    anonymous: bool = False
    timeout_s: float = TIMEOUT_S

    @classmethod
    def of(cls, config: msgspec.Struct) -> Self:
        """The place that a file of configuration describes, whose keys are named as the fields."""
        given = set(config.__struct_fields__)
        named = cls(**{name: getattr(config, name) for name in cls._fields if name in given})
        return named.resolved()

    def resolved(self) -> Self:
        """The place with the S3 server that the environment names, where it has none itself.

        The libraries that ask a bucket look for one by rules of their own, and would ask two.
        """
        variable = endpoint_variable()
        if self.endpoint or not self.is_s3 or not variable:
            return self
        return self._replace(endpoint=os.environ[variable])

    @property
    def is_s3(self) -> bool:
        """Whether objects can be written there."""
        return self.url.startswith("s3://")

    @property
    def bucket(self) -> str:
        """The bucket of an `s3://` address."""
        return urlsplit(self.url).netloc

    @property
    def prefix(self) -> str:
        """The prefix of the names of all objects, without slashes at its ends."""
        return urlsplit(self.url).path.strip("/")

    def check(self) -> None:
        """Raises: MalformedError naming the key."""
        for key, url in (("url", self.url), ("endpoint", self.endpoint)):
            try:
                server = urlsplit(url).netloc
            except ValueError as error:
                raise MalformedError(f"{key}: {error}") from None
            if "@" in server:
                raise MalformedError(f"{key}: credentials belong in the environment or in ~/.aws")
        parts = urlsplit(self.url)
        if parts.scheme == "s3":
            self._check_s3()
        elif parts.scheme in {"https", "http"}:
            _check_http("url", self.url, is_insecure=self.insecure)
        elif parts.scheme != "file" or not parts.path.startswith("/") or parts.netloc:
            raise MalformedError(
                f"url: want s3://bucket/prefix, or to read https://… or file:///…, got {self.url!a}"
            )
        if self.ca_file and not Path(self.ca_file).is_file():
            raise MalformedError(f"ca_file: there is no file {self.ca_file}")

    def _check_s3(self) -> None:
        if not _BUCKET.fullmatch(self.bucket):
            raise MalformedError(f"url: want s3://bucket/prefix, got {self.url!a}")
        if self.prefix and not _PREFIX.fullmatch(self.prefix):
            raise MalformedError(
                "url: a prefix is made of A-Z a-z 0-9 _ . - and /, and no part begins with a dot; "
                f"got {self.prefix!a}"
            )
        if self.endpoint:
            _check_http("endpoint", self.endpoint, is_insecure=self.insecure)


def endpoint_variable() -> str:
    """The variable of the environment that names the S3 server; empty where none does."""
    return next((name for name in ENDPOINT_VARIABLES if os.environ.get(name)), "")


def _check_http(key: str, url: str, *, is_insecure: bool) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise MalformedError(f"{key}: {error}") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise MalformedError(f"{key}: want https://host, got {url!a}")
    if parts.scheme == "http" and not is_insecure:
        try:
            check_loopback(parts.hostname, option="insecure = true")
        except ValueError:
            raise MalformedError(
                f"{key}: over http:// everybody on the way to {parts.hostname} can read and change "
                "what is sent: use https://, or insecure = true (--insecure)"
            ) from None
