"""Keys in another process: an ssh-agent signs, and this process never has the key.

A line of a key file names the socket of the agent and the public key:

    ssh-agent:/run/ledger/agent.sock example.com/audit+4431c298+AQeO…

Each signature is one connection: a request, an answer, each an uint32 length, a byte that says what
it is, and fields; a `string` is an uint32 length and bytes, numbers are big-endian.

    SIGN_REQUEST 13    string key blob ‖ string data ‖ uint32 flags (0)
    SIGN_RESPONSE 14   string signature blob
    FAILURE 5          it does not have the key, is locked, or a person has refused
    key blob           string "ssh-ed25519" ‖ string public key
    signature blob     string "ssh-ed25519" ‖ string signature

Ed25519 alone: the agent signs the data as they are, so the signature is that of any other holder of
the key. It is verified before it is used. An agent that is locked, gone, silent or wrong gives
UnavailableError, within `TIMEOUT_S`.

Source: draft-ietf-sshm-ssh-agent; RFC 8709; RFC 4253, section 6.6.
"""

import socket
import struct
import time
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.keys import ED25519, VerifierKey

PREFIX: Final = "ssh-agent:"
TIMEOUT_S: Final = 5.0
MESSAGE_BYTES_MAX: Final = 1 << 17
"""More than the text of a note, with the key beside it."""
FAILURE: Final = 5
REQUEST_IDENTITIES: Final = 11
IDENTITIES_ANSWER: Final = 12
SIGN_REQUEST: Final = 13
SIGN_RESPONSE: Final = 14
KEY_TYPE: Final = b"ssh-ed25519"
PUBLIC_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class AgentKey:
    """An Ed25519 key that an agent holds. Its socket has an absolute path."""

    socket: Path
    verifier_key: VerifierKey

    def __post_init__(self) -> None:
        """Raises: ValueError for another type of key, and a path that no line can carry."""
        if self.verifier_key.algorithm != ED25519:
            raise ValueError("an ssh-agent signs with Ed25519 alone")
        path = str(self.socket)
        if not self.socket.is_absolute() or not path.isprintable() or " " in path:
            raise ValueError(f"a socket of an agent has an absolute path without spaces: {path!a}")

    @classmethod
    def parse(cls, line: str) -> "AgentKey":
        """Parse the text of `encode`. Raises: MalformedError, ValueError."""
        path, _, vkey = line.removeprefix(PREFIX).partition(" ")
        return cls(Path(path), VerifierKey.parse(vkey))

    def encode(self) -> str:
        """Its line in a key file, which holds no secret."""
        return f"{PREFIX}{self.socket} {self.verifier_key}"

    def sign(self, message: bytes) -> bytes:
        """Have the agent sign bytes. Raises: UnavailableError within `TIMEOUT_S`."""
        key = pack_string(pack_key(self.verifier_key.public_key))
        request = bytes([SIGN_REQUEST]) + key + pack_string(message) + bytes(4)
        try:
            signature = _parse_signature(_ask(self.socket, request))
            self.verifier_key.check(message, signature)
        except (MalformedError, VerificationError) as error:
            raise UnavailableError(f"the agent at {self.socket}: {error}") from error
        return signature


def parse_public_key(text: str) -> bytes:
    """The key in a file `NAME.pub` of ssh-keygen, 32 bytes. Raises: MalformedError."""
    words = text.split()
    try:
        if words[:1] != [KEY_TYPE.decode()]:
            raise MalformedError("want a line that begins with ssh-ed25519")
        key = unpack_key(b64decode(words[1], validate=True))
    except (IndexError, Base64Error):
        raise MalformedError("the key of the line is not base64") from None
    if len(key) != PUBLIC_KEY_BYTES:
        raise MalformedError("the key of the line is not an Ed25519 key")
    return key


def format_public_key(key: bytes, comment: str) -> str:
    """The line of a file `NAME.pub`."""
    return f"{KEY_TYPE.decode()} {b64encode(pack_key(key)).decode()} {comment}".strip()


def _parse_signature(answer: bytes) -> bytes:
    """The signature in an answer, not verified yet. Raises: MalformedError."""
    if answer[:1] == bytes([FAILURE]):
        raise MalformedError("it does not sign with this key: it lacks the key, or is locked")
    if answer[:1] != bytes([SIGN_RESPONSE]):
        raise MalformedError(f"its answer is of type {answer[:1].hex() or 'none'}")
    (blob,) = unpack_strings(answer[1:], 1)
    return unpack_key(blob)


def _ask(path: Path, request: bytes) -> bytes:
    """Send a request and return the answer. Raises: UnavailableError, MalformedError."""
    deadline_s = time.monotonic() + TIMEOUT_S

    def remaining_s() -> float:
        remaining = deadline_s - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        return remaining

    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(remaining_s())
            connection.connect(str(path))
            connection.sendall(pack_string(request))
            return read_message(connection, remaining_s)
    except TimeoutError:
        raise UnavailableError(f"the agent at {path} gave no answer in {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise UnavailableError(f"the agent at {path}: {error.strerror or error}") from error


def read_message(
    connection: socket.socket, remaining_s: Callable[[], float] | None = None
) -> bytes:
    """The next message of a connection, without its length; nothing at its end.

    `remaining_s`: how long it may take from now on. Raises: MalformedError, OSError.
    """

    def read(size: int) -> bytes:
        data = b""
        while len(data) < size:
            if remaining_s is not None:
                connection.settimeout(remaining_s())
            piece = connection.recv(size - len(data))
            if not piece:
                break
            data += piece
        return data

    head = read(4)
    size = int.from_bytes(head)
    if size > MESSAGE_BYTES_MAX:
        raise MalformedError(f"a message has {size} bytes, {MESSAGE_BYTES_MAX} at most")
    body = read(size) if len(head) == len(bytes(4)) else head
    if head and (len(head) < len(bytes(4)) or len(body) < size):
        raise MalformedError("a message was cut")
    return body


def pack_string(data: bytes) -> bytes:
    """A `string` of the protocol."""
    return struct.pack(">I", len(data)) + data


def unpack_strings(data: bytes, count: int) -> list[bytes]:
    """Exactly so many strings. Raises: MalformedError."""
    found = []
    for _ in range(count):
        size = int.from_bytes(data[:4])
        if len(data) < 4 + size:
            raise MalformedError("a message was cut")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    if data:
        raise MalformedError("a message has more than it says")
    return found


def pack_key(key: bytes) -> bytes:
    """The blob of an Ed25519 key, or of a signature by one."""
    return pack_string(KEY_TYPE) + pack_string(key)


def unpack_key(blob: bytes) -> bytes:
    """The key or the signature in a blob. Raises: MalformedError for another type."""
    kind, key = unpack_strings(blob, 2)
    if kind != KEY_TYPE:
        raise MalformedError("a key or a signature is of another type")
    return key
