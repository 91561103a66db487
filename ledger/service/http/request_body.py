"""Request bodies are split into events that are decoded one by one.

    application/json        one event, {"events": [event, …]}, or [event, …]
    application/x-ndjson    one event a line; application/jsonl and others are names of it
    application/msgpack     the MessagePack form of either JSON one

Splitting finds where each event begins and ends and decodes none of them. So a bad event fails
alone, and no body makes more objects than its limits allow: elements are counted and measured
before they are decoded.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final

import msgspec

from ledger.service.http.msgpack_body import EVENTS_KEY, TOKENS_MAX, decode_msgpack, split_msgpack
from ledger.service.http.problems import ProblemError, too_many_events
from ledger.service.http.responses import JSON_MEDIA, NDJSON_MEDIA
from ledger_core.event.reader import Reader, ReadEvent

MSGPACK: Final = "application/msgpack"

BATCH_PROBLEMS: Final = (
    *("not-json", "not-msgpack", "too-many-events", "empty-batch"),
    *("unknown-key", "repeated-key", "wrong-type", "too-deep"),
)
"""What `split_body` may refuse a body with."""

COMMAS_MAX: Final = 1 << 21
"""Commas in a JSON body that is decoded at once. Each may take 56 bytes: 900 MB for `[1,1,…`."""

WINDOW_BYTES: Final = 1 << 20
"""Bytes of a large array in which elements are found at once; one element has no more."""
NDJSON_NAMES: Final = frozenset(
    {
        NDJSON_MEDIA,
        *("application/ndjson", "application/jsonl", "application/x-jsonl"),
        *("application/jsonlines", "application/x-jsonlines", "application/json-lines"),
    }
)
"""JSON lines have no registered media type; senders use these."""


# JSON's white space: `\s` would take more. Possessive: megabytes of it are passed once.
_match_batch = re.compile(rb'[ \t\r\n]*+\{[ \t\r\n]*+"events"[ \t\r\n]*+:[ \t\r\n]*+').match
_match_array = re.compile(rb"[ \t\r\n]*+(?=\[)").match
_is_end = re.compile(rb"[ \t\r\n]*+\}[ \t\r\n]*+").fullmatch
_is_space = re.compile(rb"[ \t\r\n]*+").fullmatch
_find_tokens = re.compile(r'"(?:[^"\\]|\\.)*+"|"|[\[{]+|[\]}]+|,', re.DOTALL).finditer
_match_blanks = re.compile("[ \\t\\r\\n]*+").match
_is_blank = re.compile(rb"[ \t\r]*+").fullmatch


@dataclass(frozen=True, slots=True)
class ParsedBody:
    """The undecoded events of a body, and the function that reads each.

    `read` raises EventError or ProblemError. `events_bytes`: if they share parts of the body.
    """

    raws: Sequence[bytes | msgspec.Raw]
    read: Callable[[bytes], ReadEvent]
    is_batch: bool
    events_bytes: int = 0


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    events: msgspec.Raw


# Numbers stay texts: nothing is made of them here.
_decode_any = json.JSONDecoder(parse_int=str, parse_float=str, strict=False).raw_decode
_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_batch = msgspec.json.Decoder(_Batch).decode


def split_body(
    body: bytes, *, content_type: str | None, events_max: int, reader: Reader
) -> ParsedBody:
    """The events of a body.

    Raises: ProblemError when it is of another type, not well-formed, has no event or too many.
    """
    media = check_media_type(content_type, (JSON_MEDIA, NDJSON_MEDIA, MSGPACK))
    if media == JSON_MEDIA:
        items = _split_json(body, events_max, reader)
    elif media == NDJSON_MEDIA:
        items = _split_lines(body, events_max, reader)
    else:
        values, is_batch = split_msgpack(body, events_max)
        read = partial(_read_msgpack, reader)
        items = ParsedBody(values, read, is_batch=is_batch)
    if not items.raws:
        raise ProblemError("empty-batch", "the request holds no event")
    if len(items.raws) > events_max:
        raise too_many_events(events_max, len(items.raws))
    return items


def check_media_type(content_type: str | None, known: Sequence[str]) -> str:
    """The media type of a body, one of these. Raises: ProblemError for another charset or type."""
    media = _media_type(content_type)
    if media in NDJSON_NAMES:
        media = NDJSON_MEDIA
    if media is None or media not in known:
        raise ProblemError("unsupported-media-type", f"a body is {' or '.join(known)}, in UTF-8")
    return media


def check_commas(body: bytes) -> None:
    """Refuses a JSON body whose elements would take too much memory. Raises: ProblemError."""
    if len(body) > COMMAS_MAX and (commas := body.count(b",")) > COMMAS_MAX:
        raise ProblemError(
            "body-too-large",
            f"the body has {commas} commas, {COMMAS_MAX} are read; send fewer events at once",
            limit=COMMAS_MAX,
            got=commas,
        )


def _media_type(content_type: str | None) -> str | None:
    """The media type, or None for one that is missing or not in UTF-8."""
    if content_type is None or content_type == JSON_MEDIA:
        return content_type
    media, *parameters = (part.strip().lower() for part in content_type.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            return None
    return media


def _split_json(body: bytes, events_max: int, reader: Reader) -> ParsedBody:
    array = _match_array(body)
    head = array or _match_batch(body)
    if head is None:
        return ParsedBody((body,), reader.read, is_batch=False)
    start = head.end()
    end = body.rfind(b"]") + 1
    # Checked at both ends: a decoder would keep the last of two "events" and drop the other.
    is_end = _is_space if array else _is_end
    if body[start : start + 1] != b"[" or not is_end(body, end):
        raise _explain_array(body) if array else _explain_batch(body)
    text = memoryview(body)[start:end]
    raws: Sequence[bytes | msgspec.Raw] | None = None
    if len(text) <= WINDOW_BYTES:
        # One event that is no JSON at all, or nested too deep, fails alone.
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raws = _decode_raws(text)
    if raws is None:
        raws = _find_elements(bytes(text[1:-1]), events_max)
    if raws is None and len(text) > WINDOW_BYTES:
        raise ProblemError(
            "not-json", f"the body is not JSON, or an event in it has over {WINDOW_BYTES} bytes"
        )
    if raws is None:
        raise _explain_array(body) if array else _explain_batch(body)
    return ParsedBody(raws, reader.read, is_batch=True)


def _find_elements(text: bytes, events_max: int) -> list[bytes] | None:
    """The elements of an array, found one by one, so that other threads run in between.

    None when they don't fit together, or one has over `WINDOW_BYTES`.
    Raises: ProblemError for too many.
    """
    elements: list[bytes] = []
    if _is_space(text):
        return elements
    start = base = 0
    # Each byte becomes one character, so that places are the same in both.
    window = text[:WINDOW_BYTES].decode("latin-1")
    tokens_left = count(TOKENS_MAX, -1)
    while True:
        is_last = base + len(window) == len(text)
        end = _end_of_value(window, start - base)
        if start > base and not is_last and (end is None or end == len(window)):
            # The element may end behind the window.
            base, window = start, text[start : start + WINDOW_BYTES].decode("latin-1")
            continue
        if end is None or window[end : end + 1] not in (",", ""):
            end = _end_of_bad_value(window, start - base, tokens_left)
        if end is None or (end == len(window) and not is_last):
            return None
        if len(elements) == events_max:
            raise too_many_events(events_max, events_max + 1)
        elements.append(text[start : base + end])
        if end == len(window):
            break
        start = base + end + 1
    return elements


def _end_of_value(text: str, start: int) -> int | None:
    """The place behind a value and the blanks around it; None for one that is no JSON.

    Python's decoder takes all JSON, and some more, which is refused when the element is read.
    """
    try:
        _, end = _decode_any(text, _skip_blanks(text, start))
    except (ValueError, RecursionError):
        return None
    return _skip_blanks(text, end)


def _skip_blanks(text: str, start: int) -> int:
    blanks = _match_blanks(text, start)
    return start if blanks is None else blanks.end()


def _end_of_bad_value(text: str, start: int, tokens_left: Iterator[int]) -> int | None:
    """The place behind something that is no JSON, found by brackets, quotes and commas alone.

    None when these don't fit together, or are too many to look at one by one.
    """
    depth = 0
    first = _skip_blanks(text, start)
    for token, left in zip(_find_tokens(text, start), tokens_left, strict=False):
        mark = token[0]
        if not left or depth < 0 or mark == '"':
            return None
        if mark == "," and depth == 0:
            return None if token.start() == first else token.start()
        if mark[0] in "[{":
            depth += len(mark)
        elif mark[0] in "]}":
            depth -= len(mark)
    return None if depth or first == len(text) else len(text)


def _explain_array(body: bytes) -> ProblemError:
    """The reason why an array of events is refused as a whole."""
    try:
        _decode_raws(body)
    except RecursionError:
        return ProblemError("too-deep", "objects and arrays are nested too deep")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return ProblemError("not-json", f"the body is not JSON: {error}")
    return ProblemError("not-json", "the body is not one array of events")


def _explain_batch(body: bytes) -> ProblemError:
    """The reason why a body that begins like a batch is refused."""
    try:
        events = bytes(_decode_batch(body).events)
    except msgspec.ValidationError:
        return ProblemError("unknown-key", f'only "{EVENTS_KEY}" may stand in a batch')
    except RecursionError:
        return ProblemError("too-deep", "objects and arrays are nested too deep")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return ProblemError("not-json", f"the body is not JSON: {error}")
    if not events.startswith(b"["):
        return ProblemError("wrong-type", "expected an array of events", field=EVENTS_KEY)
    return ProblemError("repeated-key", "stands twice in one object", field=EVENTS_KEY)


def _split_lines(body: bytes, events_max: int, reader: Reader) -> ParsedBody:
    """One event a line; blank lines are skipped, but count toward the limit."""
    lines = body.count(b"\n") + (not body.endswith(b"\n"))
    if lines > events_max:
        raise too_many_events(events_max, lines)
    raws = [line for line in body.split(b"\n") if not _is_blank(line)]
    return ParsedBody(raws, reader.read, is_batch=True)


def _read_msgpack(reader: Reader, raw: bytes) -> ReadEvent:
    return reader.read_object(decode_msgpack(raw))
