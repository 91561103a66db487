"""Key files keep what was written, for their owner alone, and say nothing of what they hold."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.runtime.encrypted_keys import is_encrypted
from ledger.runtime.keys import LINE_BYTES_MAX, read_keys, write_keys
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.keys import ED25519, ED25519_COSIGNATURE, MLDSA44_COSIGNATURE, SignerKey

KEYS = [
    SignerKey(name, algorithm=algorithm, seed=bytes([number]) * 32)
    for number, (name, algorithm) in enumerate(
        [
            ("example.com/log", ED25519),
            ("example.com/w1", ED25519_COSIGNATURE),
            ("example.com/w1", MLDSA44_COSIGNATURE),
            ("ü" * 127, ED25519_COSIGNATURE),
        ]
    )
]


def texts(keys: object) -> list[str]:
    assert isinstance(keys, (list, tuple))
    return [key.encode() for key in keys]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "key"


def put(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


@pytest.mark.parametrize("count", range(1, len(KEYS) + 1))
def test_what_is_written_is_read_back_in_order(path: Path, count: int) -> None:
    write_keys(path, KEYS[:count])
    assert path.stat().st_mode & 0o777 == 0o600
    assert texts(read_keys(path, keys_max=count)) == texts(KEYS[:count])


def test_a_key_file_is_never_written_over(path: Path) -> None:
    write_keys(path, KEYS[:1])
    with pytest.raises(FileExistsError):
        write_keys(path, KEYS[1:])
    assert texts(read_keys(path, keys_max=1)) == texts(KEYS[:1])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666, 0o777])
def test_a_file_that_others_may_touch_is_refused(path: Path, mode: int) -> None:
    write_keys(path, KEYS[:1])
    path.chmod(mode)
    with pytest.raises(UnavailableError, match=f"{mode:04o}"):
        read_keys(path, keys_max=1)


def test_a_missing_file_is_unavailable(path: Path) -> None:
    with pytest.raises(UnavailableError, match="no key file"):
        read_keys(path, keys_max=1)


LINE = KEYS[0].encode().encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        LINE,
        LINE + b"\r\n",
        LINE + b"\n\n",
        b"\n" + LINE + b"\n",
        LINE + b"\n" + LINE + b"\n",
        b"# a key\n" + LINE + b"\n",
        LINE[:-4] + b"\n",
        LINE.replace(b"PRIVATE", b"PUBLIC") + b"\n",
        str(KEYS[0].verifier_key).encode() + b"\n",
        b"\xff\n",
        LINE + b"\n" + b"x" * 2 * LINE_BYTES_MAX,
        b"".join(key.encode().encode() + b"\n" for key in KEYS[:3]),
    ],
)
def test_anything_but_so_many_keys_is_refused_and_not_shown(path: Path, data: bytes) -> None:
    put(path, data)
    with pytest.raises(MalformedError) as caught:
        read_keys(path, keys_max=2)
    secret = KEYS[0].encode().rpartition("+")[2]
    assert secret[:8] not in str(caught.value)


@given(data=st.binary(max_size=LINE_BYTES_MAX))
def test_no_junk_is_a_key(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "key"
    put(path, data)
    # What begins as an encrypted file wants its passphrase first.
    with pytest.raises(UnavailableError if is_encrypted(data) else MalformedError):
        read_keys(path, keys_max=1)
