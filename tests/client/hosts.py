"""A log's host as one object: it answers requests from memory, truly or as a test tells it."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from ledger_client.messages import Plan, Request, Response
from ledger_core.api import AskMulti
from ledger_core.event.canonical import encode_event, format_leaf
from ledger_core.event.model import Event
from ledger_core.event.reader import Reader
from ledger_core.event.times import format_time
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.note import Note, format_note, parse_note
from ledger_core.tlog.policy import Policy, parse_policy
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tile import TILE_WIDTH, encode_bundle, parse_tile_path, tile_width
from ledger_core.tlog.tree import Node
from tests.client.trees import SmallLog

T = TypeVar("T")
Lie = Callable[[Request, Response], Response]

READER = Reader(lambda: "0192f0c1-7c1a-7c3a-9d2f-000000000000", lambda: 0)
ENTRIES_SINCE_UNIX_US = 1_764_036_216_000_000


def event_id(number: int) -> str:
    return f"0192f0c1-7c1a-7c3a-9d2f-{number:012x}"


def entry(
    number: int,
    *,
    actor: str = "u_1",
    at: int | None = None,
    id_: str | None = None,
    time: int = 0,
) -> bytes:
    """The leaf of an event; each is received a second after the one before it."""
    fields: dict[str, Any] = {
        "id": id_ or event_id(number),
        "time": format_time(ENTRIES_SINCE_UNIX_US + time * 10**6),
        "actor": {"id": actor},
        "action": "user.changed",
        "outcome": "success",
    }
    event: Event = READER.read_object(fields).event
    return format_leaf(
        event_json=encode_event(event),
        by="billing-api",
        received_time=format_time(ENTRIES_SINCE_UNIX_US + (number if at is None else at) * 10**6),
    )


def entries(count: int, **fields: Any) -> list[bytes]:
    return [entry(number, **fields) for number in range(count)]


def witness(name: str) -> CosignatureSigner:
    seed = name.encode().ljust(32, b".")
    return CosignatureSigner.generate(
        f"witness.example/{name}", algorithm=ED25519_COSIGNATURE, seed=seed
    )


W1, W2, W3 = witness("w1"), witness("w2"), witness("w3")


def quorum_policy(log: SmallLog, rule: str = "group g 2 w1 w2 w3\nquorum g") -> Policy:
    """Three witnesses, the first two of them at one address each."""
    lines = [f"log {log.signer.verifier}"]
    for signer, url in ((W1, " https://w1.example/"), (W2, " https://w2.example/x"), (W3, "")):
        name = signer.verifier.name.rpartition("/")[2]
        lines.append(f"witness {name} {signer.verifier}{url}")
    return parse_policy(("\n".join([*lines, rule]) + "\n").encode())


def cosigned(note: str, *cosigners: tuple[CosignatureSigner, int]) -> str:
    """A note with the cosignatures of witnesses, each at its time."""
    parsed = parse_note(note)
    lines = [signer.sign(parsed.text, time_unix_s=time_s) for signer, time_s in cosigners]
    return format_note(Note(parsed.text, (*parsed.signatures, *lines)))


class Host:
    """Serves the first `size` entries of a log, and what it tells goes through `lie` first."""

    def __init__(self, log: SmallLog, size: int | None = None) -> None:
        self.log = log
        self.size = len(log.leaves) if size is None else size
        self.cosigners: Sequence[tuple[CosignatureSigner, int]] = ()
        self.lie: Lie = lambda _request, response: response
        self.targets: list[str] = []

    def run(self, plan: Plan[T]) -> T:
        """Answer all that a plan asks."""
        try:
            step = next(plan)
            while True:
                step = plan.send(self.answer(step))
        except StopIteration as done:
            result: T = done.value
            return result

    def answer(self, request: Request) -> Response:
        self.targets.append(request.target)
        body = self._multi(request) if request.body is not None else self._body(request.target)
        true = Response(status=404, body=b"{}") if body is None else Response(status=200, body=body)
        return self.lie(request, true)

    def note(self) -> str:
        return cosigned(self.log.note(self.size), *self.cosigners)

    def _body(self, target: str) -> bytes | None:
        if target == "/checkpoint":
            return self.note().encode()
        if found := re.fullmatch(r"/v1/proofs/consistency\?from=(\d+)&to=(\d+)", target):
            return self._consistency(int(found[1]), int(found[2]))
        return self._tile(target[1:]) if target.startswith("/tile/") else None

    def _multi(self, request: Request) -> bytes | None:
        if request.target != "/v1/proofs/multi":
            return None
        ask = msgspec.json.decode(request.body or b"", type=AskMulti)
        return self.log.multi_proof(ask.indices, ask.tree_size).encode()

    def _consistency(self, old_size: int, new_size: int) -> bytes | None:
        if new_size > self.size:
            return None
        proof = self.log.consistency(old_size, new_size)
        hashes = [format_base64(node) for node in proof.hashes]
        return msgspec.json.encode({"from": old_size, "to": new_size, "hashes": hashes})

    def _tile(self, path: str) -> bytes | None:
        ref = parse_tile_path(path)
        if ref.width > tile_width(level=ref.level or 0, index=ref.index, tree_size=self.size):
            return None
        first = ref.index * TILE_WIDTH
        if ref.level is None:
            return encode_bundle(self.log.leaves[first : first + ref.width])
        return b"".join(
            self.log.hash(Node(8 * ref.level, index)) for index in range(first, first + ref.width)
        )
