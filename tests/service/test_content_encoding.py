"""Compressed bodies of many members: decoded whole, by work that is linear in the body."""

import asyncio
import gzip
import os
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from ledger.service.http.content_encoding import GZIP_INPUT_BYTES, MEMBERS_MAX, decode_body
from ledger.service.http.problems import ProblemError

BYTES_MAX = 1 << 24
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def _decode(body: bytes, encoding: str) -> bytes:
    return asyncio.run(decode_body(body, encoding, bytes_max=BYTES_MAX, take=lambda _decoded: None))


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("empty", [0, 1, MEMBERS_MAX - 3])
def test_members_that_follow_one_another_are_decoded_to_their_last_byte(
    encoding: str, empty: int
) -> None:
    compress, noise = COMPRESS[encoding], os.urandom(300_000)
    text = b"a" * 3_000_000
    body = compress(text) + compress(b"") * empty + compress(noise) + compress(b"end")
    assert _decode(body, encoding) == text + noise + b"end"


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_body_of_too_many_members_or_with_a_last_one_cut_short_is_refused(encoding: str) -> None:
    compress = COMPRESS[encoding]
    for body in (compress(b"") * (MEMBERS_MAX + 1), (compress(b"") + compress(b"abc"))[:-1]):
        with pytest.raises(ProblemError) as caught:
            _decode(body, encoding)
        assert caught.value.problem.slug == "bad-encoding"


def test_the_bytes_handed_to_zlib_grow_with_the_body_and_not_with_its_members_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = 0
    make = zlib.decompressobj

    class Counted:
        def __init__(self, bits: int) -> None:
            self._member = make(bits)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._member, name)

        def decompress(self, data: bytes, length: int) -> bytes:
            nonlocal given
            given += len(data)
            return self._member.decompress(data, length)

    monkeypatch.setattr(zlib, "decompressobj", Counted)
    noise = os.urandom(1 << 22)
    body = gzip.compress(b"") * (MEMBERS_MAX - 1) + gzip.compress(noise)
    assert _decode(body, "gzip") == noise
    assert given <= 2 * len(body) + MEMBERS_MAX * GZIP_INPUT_BYTES
