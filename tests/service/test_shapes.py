"""The shapes in which log shippers send events: arrays, names of JSON lines, compressed bodies."""

import asyncio
import gzip
import json
import zlib
from typing import Any

import msgspec
import pytest
import zstandard

from ledger.service.http.content_encoding import MEMBERS_MAX, decode_body, encoding_of
from ledger.service.http.problems import ProblemError
from tests.service.serving import JSON, NDJSON, QUICK, Answer, Ledger, event, serving_new

ENCODERS: dict[str, Any] = {"gzip": gzip.compress, "zstd": zstandard.compress}


def post(ledger: Ledger, body: bytes, **headers: str) -> Answer:
    return ledger.ask("/v1/events", method="POST", body=body, **headers)


def decode(body: bytes, encoding: str, bytes_max: int = 1 << 20) -> bytes:
    return asyncio.run(decode_body(body, encoding, bytes_max=bytes_max, take=lambda _count: None))


def refused(body: bytes, encoding: str, bytes_max: int = 1 << 20) -> str:
    with pytest.raises(ProblemError) as caught:
        decode(body, encoding, bytes_max)
    return caught.value.problem.slug


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (json.dumps, 3),
        (lambda events: "\r\n [ " + ",\n".join(map(json.dumps, events)) + "\n]\n", 3),
        (lambda events: json.dumps(events[:1]), 1),
    ],
    ids=["an array", "with space", "of one"],
)
def test_an_array_is_a_batch(shared_ledger: Ledger, body: Any, count: int) -> None:
    answer = post(shared_ledger, body([event() for _ in range(3)]).encode(), content_type=JSON)
    assert answer.status == 200
    assert len(answer.json()["results"]) == count


@pytest.mark.parametrize(
    "bad",
    ['{"action":NaN}', "[" * 50_000 + "]" * 50_000, '{"reason":"\\ud800"}', "{]}", "7", "who"],
)
def test_one_bad_event_of_an_array_fails_alone(shared_ledger: Ledger, bad: str) -> None:
    body = f"[{json.dumps(event())},{bad},{json.dumps(event())}]".encode()
    answer = post(shared_ledger, body, content_type=JSON)
    if bad == "{]}":  # Its brackets don't fit, so nobody knows where it ends.
        assert (answer.status, answer.slug) == (400, "not-json")
        return
    assert answer.status == 207
    assert ["error" in result for result in answer.json()["results"]] == [False, True, False]


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        ("[]", "empty-batch"),
        ("[", "not-json"),
        ("[{}", "not-json"),
        ("[{}] []", "not-json"),
        ("[{},]", "not-json"),
        ("[]]", "not-json"),
    ],
)
def test_an_array_that_is_none_is_refused(shared_ledger: Ledger, body: str, slug: str) -> None:
    assert post(shared_ledger, body.encode(), content_type=JSON).slug == slug


@pytest.mark.parametrize("media", ["application/jsonl", "application/x-jsonlines; charset=utf-8"])
def test_json_lines_have_many_names(shared_ledger: Ledger, media: str) -> None:
    body = "".join(f"{json.dumps(event())}\n" for _ in range(3)).encode()
    assert len(post(shared_ledger, body, content_type=media).json()["results"]) == 3


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_compressed_body_is_read(shared_ledger: Ledger, encoding: str) -> None:
    lines = [json.dumps(event()).encode() + b"\n" for _ in range(40)]
    encode = ENCODERS[encoding]
    for body in (encode(b"".join(lines)), b"".join(map(encode, lines))):
        answer = post(shared_ledger, body, content_type=NDJSON, content_encoding=encoding)
        assert answer.status == 200
        assert len(answer.json()["results"]) == 40


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_compressed_body_is_bounded_whole_and_itself(encoding: str) -> None:
    encode = ENCODERS[encoding]
    data = bytes(range(256)) * 5_000
    assert decode(encode(data), encoding, len(data)) == data
    assert decode(encode(b""), encoding) == b""
    assert refused(encode(data), encoding, len(data) - 1) == "body-too-large"
    assert refused(encode(bytes(1 << 24)), encoding) == "body-too-large"
    for cut in (0, 1, 5, len(encode(data)) - 1):
        assert refused(encode(data)[:cut], encoding, 1 << 22) == "bad-encoding"
    assert refused(encode(data) + b"junk", encoding, 1 << 22) == "bad-encoding"
    assert refused(encode(b"") * (MEMBERS_MAX + 1), encoding) == "bad-encoding"
    flipped = bytearray(encode(data))
    flipped[len(flipped) // 2] ^= 0x10
    assert encoding == "zstd" or refused(bytes(flipped), encoding, 1 << 22) == "bad-encoding"


def test_a_window_of_zstd_that_is_too_large_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    large = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = large.compress(b"x" * 100) + large.flush()
    assert refused(body, "zstd") == "bad-encoding"


@pytest.mark.parametrize("encoding", ["deflate", "br", "gzip, gzip"])
def test_another_encoding_is_told_which_are_read(shared_ledger: Ledger, encoding: str) -> None:
    answer = post(shared_ledger, zlib.compress(b"{}"), content_type=JSON, content_encoding=encoding)
    assert (answer.status, answer.slug) == (415, "unsupported-media-type")
    assert answer.headers["Accept-Encoding"] == "gzip, zstd"


def test_names_of_encodings_are_read_as_http_has_them() -> None:
    assert [encoding_of(name) for name in (None, "identity", "X-GZip", " ZSTD")] == [
        None,
        None,
        "gzip",
        "zstd",
    ]


def test_what_a_body_decodes_to_is_counted_in_flight(tmp_path: Any) -> None:
    settings = msgspec.structs.replace(QUICK, request_bytes_max=100_000)
    with serving_new(tmp_path, settings) as ledger:
        body = gzip.compress(b" " * 100_001)
        answer = post(ledger, body, content_type=JSON, content_encoding="gzip")
        assert (answer.status, answer.slug, answer.json()["limit"]) == (
            413,
            "body-too-large",
            100_000,
        )


@pytest.mark.parametrize(
    ("body", "slug", "field"),
    [
        (b'{"subject":"u","subject":"v","reason":"r"}', "repeated-key", "subject"),
        (b'{"subject":"u","reason":"r","tenant":"t"}', "unknown-key", "tenant"),
        (b'{"subject":"u"}', "missing-field", "reason"),
        (b'{"subject":7,"reason":"r"}', "wrong-type", "subject"),
        (b'{"subject":"","reason":"r"}', "too-short", "subject"),
        (b'{"subject":"a\\u0000","reason":"r"}', "string", "subject"),
        (b'{"subject":"\\ud800","reason":"r"}', "string", "subject"),
        (b"[]", "wrong-type", None),
        (b'{"subject":', "not-json", None),
    ],
)
def test_an_erasure_is_read_as_strictly_as_an_event(
    shared_ledger: Ledger, body: bytes, slug: str, field: str | None
) -> None:
    answer = shared_ledger.ask("/v1/private/erasures", method="POST", body=body, content_type=JSON)
    assert (answer.slug, answer.json().get("field")) == (slug, field)


@pytest.mark.parametrize("media", ["", "text/plain", "application/json; charset=latin-1", NDJSON])
def test_an_erasure_is_json(shared_ledger: Ledger, media: str) -> None:
    body = b'{"subject":"u_1","reason":"r"}'
    answer = shared_ledger.ask("/v1/private/erasures", method="POST", body=body, content_type=media)
    assert (answer.status, answer.slug) == (415, "unsupported-media-type")
