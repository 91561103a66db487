"""The protocol of S3, as far as an archive needs it: addresses, signatures, lists, codes of errors.

    GET  /bucket/prefix/name                        an object, or a range of its bytes
    GET  /bucket?list-type=2&prefix=…               a page of the objects whose names begin so
    PUT  /bucket/prefix/name  If-None-Match: *      a new object; 412 when there is one
    PUT  /bucket/prefix/name  If-Match: "tag"       another content, if it is still this one

Addresses are path-style: certificates don't cover a bucket's name that has dots.

Source: Amazon S3 API Reference, GetObject, ListObjectsV2, PutObject; RFC 3986 §2.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote_plus
from xml.parsers import expat

from ledger.object_storage.bounded_http import normal_url
from ledger.object_storage.place import REGION_DEFAULT, Place
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.text import printable

try:
    import boto3
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import BotoCoreError, ClientError
except ModuleNotFoundError:
    raise UnavailableError(
        "an archive needs boto3: pip install 'witnessed-ledger[archive]'"
    ) from None

LISTED_AT_ONCE: Final = 1000
LIST_BYTES_MAX: Final = 4 << 20
"""A list of 1,000 names of 1,024 bytes is shorter."""

ROOT: Final = "ListBucketResult"
DEPTH_MAX: Final = 8
TEXT_CHARS_MAX: Final = 4096
"""Of a name or a token; S3 has at most 1,024 bytes."""

CODE_CHARS_MAX: Final = 64
_UNRESERVED: Final = "-._~"
_find_code: Final = re.compile(rb"<Code>(\w{1,64})</Code>").search
_is_length: Final = re.compile(r"[0-9]{1,15}").fullmatch


class Listed(NamedTuple):
    """The name of an object, and its length in bytes."""

    name: str
    length: int


class ListPage(NamedTuple):
    """A page of a list. `token`: that of the next page; empty on the last one."""

    objects: Sequence[Listed]
    token: str


class S3Address:
    """The addresses of the objects of one place, and the signatures of requests for them."""

    def __init__(self, place: Place) -> None:
        """Raises: MalformedError, UnavailableError without credentials."""
        with credential_errors(place.url):
            session = boto3.Session()
            self.region: Final = place.region or session.region_name or REGION_DEFAULT
            self._credentials: Any = None if place.anonymous else session.get_credentials()
        if self._credentials is None and not place.anonymous:
            raise UnavailableError(
                f"{place.url}: there are no credentials: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or what else the AWS tools read"
            )
        domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        server = normal_url(place.endpoint or f"https://s3.{self.region}.{domain}")
        self.bucket_url: Final = f"{server}/{place.bucket}"
        self.prefix: Final = f"{place.prefix}/" if place.prefix else ""
        self._url: Final = place.url

    def object_url(self, name: str) -> str:
        """The address of an object."""
        return f"{self.bucket_url}/{quote(self.prefix + name, safe=f'/{_UNRESERVED}')}"

    def list_url(self, folder: str, token: str) -> str:
        """The address of a page of the objects below a folder; without a token of the first one."""
        fields = {
            **({"continuation-token": token} if token else {}),
            # Else a name with a character that XML has not, which anybody may give an object, would
            # make a page that nobody can read.
            "encoding-type": "url",
            "list-type": "2",
            "max-keys": str(LISTED_AT_ONCE),
            "prefix": f"{self.prefix}{folder}/",
        }
        query = "&".join(f"{key}={quote(fields[key], safe=_UNRESERVED)}" for key in fields)
        return f"{self.bucket_url}?{query}"

    @property
    def may_wait(self) -> bool:
        """Whether the next signature waits for other credentials, as those of a role."""
        is_stale = getattr(self._credentials, "refresh_needed", None)
        return is_stale is not None and bool(is_stale())

    def sign(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> dict[str, str]:
        """The headers of a request, with its signature. It may wait: for a role's credentials.

        S3 takes no object without a checksum where a default retention locks it. Raises:
        UnavailableError.
        """
        sent = dict(headers)
        if body is not None:
            sent["x-amz-checksum-sha256"] = b64encode(hashlib.sha256(body).digest()).decode()
        if self._credentials is None:
            return sent
        request = AWSRequest(method=method, url=url, headers=sent, data=body)
        with credential_errors(self._url):
            known = self._credentials.get_frozen_credentials()
            S3SigV4Auth(known, "s3", self.region).add_auth(request)
        return dict(request.headers.items())

    def relative(self, page: ListPage) -> ListPage:
        """A page with the names below the prefix alone, without the prefix."""
        start = len(self.prefix)
        found = [each for each in page.objects if each.name.startswith(self.prefix)]
        return ListPage([Listed(each.name[start:], each.length) for each in found], page.token)


@contextmanager
def credential_errors(url: str) -> Iterator[None]:
    """Raises: UnavailableError for what the AWS SDK raises when it finds or renews credentials.

    Their files, programs and servers are asked by it, and it passes on what these do wrong.
    """
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))[:CODE_CHARS_MAX]
        said = f"{error.operation_name} is answered by {printable(code)}"
        raise UnavailableError(f"{url}: the credentials: {said}") from None
    except (BotoCoreError, OSError, ValueError, LookupError, TypeError) as error:
        raise UnavailableError(f"{url}: the credentials: {printable(str(error))}") from None


def error_code(data: bytes) -> str:
    """The code in the text of an error; empty when it has none."""
    match = _find_code(data)
    return "" if match is None else match[1].decode()


def parse_list(data: bytes) -> ListPage:
    """A page of a list, at most `LIST_BYTES_MAX`. Memory: that of the names.

    No entity is expanded: a page that declares one is refused. Raises: MalformedError.
    """
    reader = _PageReader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse
    try:
        parser.Parse(data, True)  # noqa: FBT003 - its only form
    except expat.ExpatError as error:
        raise MalformedError(f"no list of a bucket: {error}") from None
    return reader.page()


class _PageReader:
    """Takes the names, lengths and the token out of the elements of a page."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._texts: dict[str, str] = {}
        self._objects: list[Listed] = []
        self._fields: dict[str, str] = {}

    def start(self, tag: str, _attributes: Mapping[str, str]) -> None:
        """An element begins."""
        if not self._path and tag != ROOT:
            raise MalformedError(f"no list of a bucket: its element is not {ROOT}")
        if len(self._path) == DEPTH_MAX:
            raise MalformedError("no list of a bucket: it has too many elements in one another")
        self._path.append(tag)
        if self._path[1:] == ["Contents"]:
            self._texts = {}

    def text(self, text: str) -> None:
        """Text within an element."""
        match self._path[1:]:
            case ["Contents", ("Key" | "Size") as tag]:
                self._add(self._texts, tag, text)
            case [("IsTruncated" | "NextContinuationToken" | "EncodingType") as tag]:
                self._add(self._fields, tag, text)

    def end(self, _tag: str) -> None:
        """An element ends."""
        if self._path[1:] == ["Contents"]:
            length = self._texts.get("Size", "").strip()
            if "Key" not in self._texts or not _is_length(length):
                raise MalformedError("no list of a bucket: an object without name or length")
            self._objects.append(Listed(self._texts["Key"], int(length)))
        self._path.pop()

    def refuse(self, *_declaration: object) -> None:
        """A document type, which could declare entities."""
        raise MalformedError("no list of a bucket: it declares a document type")

    def page(self) -> ListPage:
        """What was read. Raises: MalformedError for a page that goes on, and says not where."""
        goes_on = self._fields.get("IsTruncated", "").strip() == "true"
        token = self._fields.get("NextContinuationToken", "") if goes_on else ""
        if goes_on and not token:
            raise MalformedError("no list of a bucket: it goes on, and says not where")
        if self._fields.get("EncodingType") == "url":
            self._objects = [Listed(unquote_plus(each.name), each.length) for each in self._objects]
        return ListPage(self._objects, token)

    @staticmethod
    def _add(fields: dict[str, str], tag: str, text: str) -> None:
        fields[tag] = fields.get(tag, "") + text
        if len(fields[tag]) > TEXT_CHARS_MAX:
            raise MalformedError(f"no list of a bucket: {tag} is longer than any")
