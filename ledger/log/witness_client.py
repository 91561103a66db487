"""The client of witnesses: asks each for cosignatures, and verifies all that it answers.

A witness is asked under its URL in the policy; two keys at one URL are one witness with two keys.
It gets the checkpoint with the log's own signatures only, and a consistency proof from the size
that it cosigned last. What it answers:

    200   signature lines; those of its keys in the policy are verified, others are ignored
    409   its size: used once, as the start of the proof, and only if the tree here is that large
    409   a size below that of its last cosignature: an older copy of its folder was put back, which
          the log line `witness_went_back` says; its cosignatures of this log are as good as before
    409   a size that the tree here never had, and
    422   a refusal of the proof: it contradicts the log, and is asked for the head that it knows.
          If this log has signed that head and the tree here does not have it, this log was forked
          or an old backup was restored, and nothing may be signed any more: VerificationError, with
          both heads. If not, nothing proves the claim, and it is an error of the witness; that
          names a head of this origin by another key, as that of a mirror which was promoted
    else  an error of the witness or of the network

After an error, a witness is asked again after a wait that doubles with each further error, and not
before the time that its Retry-After names. A witness with an interval is asked once in that time:
public witnesses allow a log so many requests a day.

A weakness: after a restored backup, a witness that can't be asked for its head does not stop the
publisher. It does not cosign either, so the quorum is missing where it counts.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import aiohttp
import structlog

from ledger.log.hold import is_missing, read_own_head
from ledger.log.public_policy import public_url
from ledger.runtime.network_errors import explain_network_error
from ledger.store.log import DamagedTreeError, LogStore
from ledger_client.runtime.backoff import exponential_s, parse_retry_after
from ledger_client.runtime.name_lookup import make_connector
from ledger_core.tlog import witness as protocol
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import CosignatureVerifier, cosigned_at_unix_s
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.note import NoteVerifier, Signature, verify_note
from ledger_core.tlog.policy import Policy, PolicyWitness

TIMEOUT_S: Final = 5.0
EVIDENCE_BYTES_MAX: Final = 1 << 18

WAIT_MAX_S: Final = 60.0
"""The longest wait before a witness that failed is asked again."""

RETRY_AFTER_MAX_S: Final = 86_400
"""The longest wait that a witness may ask for."""

_SECONDS: Final = re.compile(r"[0-9]{1,9}")

_log = structlog.get_logger("ledger.log.witness_client")


class PeerOptions(NamedTuple):
    """The clock for times of cosignatures, and the wait after the first error of a witness.

    `intervals_s`: how long a witness is left alone after a request, by its name in the policy.
    `timeout_s` and `mirrors`: for the cosignatures of mirrors, see `mirror_peer`.
    """

    unix_s: Callable[[], int]
    wait_base_s: float
    intervals_s: Mapping[str, float] = MappingProxyType({})
    timeout_s: float = TIMEOUT_S
    mirrors: Path | None = None


class Reply(NamedTuple):
    """Status and body of an answer, and for how long it asks to be left alone."""

    status: int
    body: bytes
    retry_after_s: float = 0.0


async def read_reply(
    answer: aiohttp.ClientResponse, bytes_max: int, *, unix_s: float
) -> Reply | None:
    """Read an answer; None when it has more than `bytes_max`, of which no more is read.

    `unix_s`: the clock that a date in its Retry-After is compared with.
    """
    content = bytearray()
    while chunk := await answer.content.read(bytes_max + 1 - len(content)):
        content += chunk
        if len(content) > bytes_max:
            answer.close()
            return None
    asked_s = parse_retry_after(answer.headers.get("Retry-After"), unix_s=unix_s)
    return Reply(answer.status, bytes(content), min(asked_s or 0.0, RETRY_AFTER_MAX_S))


@dataclass(frozen=True, slots=True)
class WitnessStatus:
    """Result of the last request to one witness: size and time are those of its last cosignature.

    The time is the one that it stated, by which clients and monitors judge how fresh the head is.
    """

    names: tuple[str, ...]
    url: str
    cosigned_size: int | None = None
    cosigned_at_unix_s: int | None = None
    error: str | None = None


class WitnessPeer:
    """The client of one witness. Used from one event loop, one request at a time."""

    def __init__(
        self,
        witnesses: Sequence[PolicyWitness],
        session: aiohttp.ClientSession,
        *,
        store: LogStore,
        log_keys: Sequence[NoteVerifier],
        options: PeerOptions,
    ) -> None:
        """`witnesses`: the keys of the witness at one URL. `session`: see `make_session`."""
        self._keys: dict[tuple[str, int], CosignatureVerifier] = {
            (w.verifier.name, w.verifier.key_id): w.verifier for w in witnesses
        }
        self._session = session
        self._store = store
        self._log_keys = log_keys
        self._options = options
        self._known_size = self._last_cosigned()
        self._ask_after_s = 0.0
        self._is_busy = False
        self.interval_s = max(
            (options.intervals_s.get(w.name, 0.0) for w in witnesses), default=0.0
        )
        url = str(witnesses[0].url).rstrip("/")
        self.status = WitnessStatus(tuple(w.name for w in witnesses), url)
        self.failures = 0

    @property
    def is_due(self) -> bool:
        """Whether it can be asked: it is not busy, and the wait after an error is over."""
        return not self._is_busy and time.monotonic() >= self._ask_after_s

    def lacks(self, tree_size: int) -> bool:
        """Whether it is one that is asked seldom, and has not cosigned a tree of this size yet."""
        return self.interval_s > 0 and (self.status.cosigned_size or 0) < tree_size

    async def ask(self, signed: SignedCheckpoint) -> tuple[Signature, ...]:
        """Ask for cosignatures of a checkpoint that has the log's signatures only, and verify them.

        Raises: UnavailableError when there are none now; VerificationError, with evidence, when it
        shows another history that this log has signed.
        """
        self._is_busy = True
        self._ask_after_s = time.monotonic() + self.interval_s
        try:
            cosignatures = await self._ask(signed)
        except (UnavailableError, VerificationError) as error:
            self.status = replace(self.status, error=str(error))
            self.failures += 1
            asked_s = (isinstance(error, UnavailableError) and error.retry_after_s) or 0.0
            wait_s = exponential_s(
                self.failures, base_s=self._options.wait_base_s, limit_s=WAIT_MAX_S
            )
            self._ask_after_s = max(self._ask_after_s, time.monotonic() + max(wait_s, asked_s))
            raise
        finally:
            self._is_busy = False
        self.failures = 0
        self._known_size = signed.head.tree_size
        self.status = replace(
            self.status,
            cosigned_size=signed.head.tree_size,
            cosigned_at_unix_s=min(map(cosigned_at_unix_s, cosignatures)),
            error=None,
        )
        return cosignatures

    async def _ask(self, signed: SignedCheckpoint) -> tuple[Signature, ...]:
        tree_size = signed.head.tree_size
        old_size = min(self._known_size, tree_size)
        for _ in range(2):
            status, body, retry_after_s = await self._post(signed, old_size)
            if status == HTTPStatus.OK:
                return self._verified(signed, body)
            if status == HTTPStatus.UNPROCESSABLE_ENTITY:
                raise await self._contradiction(
                    signed, f"refuses the proof from size {old_size}: {_excerpt(body)}"
                )
            if status != HTTPStatus.CONFLICT:
                raise self._failed(f"answered {status}: {_excerpt(body)}", retry_after_s)
            try:
                old_size = protocol.parse_size_answer(body)
            except MalformedError as error:
                raise self._failed(f"a bad answer of 409: {error}") from error
            durable_size = self._store.head().tree_size
            if old_size < self._known_size:
                # Its folder is an older copy: it would cosign a second history from there on.
                _log.error(
                    "witness_went_back",
                    witness=self.status.names[0],
                    cosigned_size=self._known_size,
                    known_size=old_size,
                )
                self._known_size = old_size
            if old_size > durable_size:
                raise await self._contradiction(
                    signed, f"knows size {old_size}, the log here has {durable_size}"
                )
            if old_size > tree_size:
                raise self._failed(f"cosigned size {old_size} already, this head is older")
        raise self._failed("answered 409 to the size that it gave itself")

    def _last_cosigned(self) -> int:
        """The size of the published head, if this witness has cosigned it; 0 if not."""
        published = self._store.published()
        if published is None:
            return 0
        keys = {(each.name, each.key_id) for each in published.as_note().signatures}
        return published.head.tree_size if keys & self._keys.keys() else 0

    async def _post(self, signed: SignedCheckpoint, old_size: int) -> Reply:
        # Size 0 needs no proof, and the same size has an empty one.
        try:
            proof = self._store.prove_consistency(old_size, signed.head)
        except DamagedTreeError as error:
            raise self._failed(f"not asked, since {error}") from error
        request = protocol.AddCheckpoint(old_size, proof, signed)
        body = protocol.format_add_checkpoint(request)
        return await self._send("POST", "/add-checkpoint", protocol.ANSWER_BYTES_MAX, body)

    async def _send(
        self, method: str, path: str, bytes_max: int, body: bytes | None = None
    ) -> Reply:
        """An answer. Never more than `bytes_max` of it is read."""
        try:
            async with self._session.request(
                method, self.status.url + path, data=body, allow_redirects=False
            ) as answer:
                reply = await read_reply(answer, bytes_max, unix_s=self._options.unix_s())
                if reply is None:
                    raise self._failed(f"sent more than {bytes_max} bytes")
                return reply
        except TimeoutError:
            raise self._failed(f"no answer in {self._session.timeout.total:g} s") from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            # aiohttp quotes it with the credentials, and the error is logged.
            raise self._failed(f"no usable address: {public_url(self.status.url)}") from error
        except aiohttp.ClientConnectorError as error:
            raise self._failed(f"no connection: {explain_network_error(error)}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failed(f"{type(error).__name__}: {error}") from error

    def _verified(self, signed: SignedCheckpoint, body: bytes) -> tuple[Signature, ...]:
        """The cosignatures by keys of the policy. One bad one condemns the answer."""
        try:
            cosignatures = protocol.verify_cosignatures(body, signed.as_note().text, self._keys)
        except (MalformedError, VerificationError) as error:
            raise self._failed(f"a bad answer: {error}") from error
        if not cosignatures:
            raise self._failed("answered without a signature by a key of the policy")
        return cosignatures

    async def _contradiction(
        self, signed: SignedCheckpoint, said: str
    ) -> UnavailableError | VerificationError:
        """The error for a witness that contradicts the log, by the head that it shows.

        Raises: UnavailableError when it shows none.
        """
        origin = signed.checkpoint.origin
        path = f"/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"
        status, theirs, _ = await self._send("GET", path, EVIDENCE_BYTES_MAX)
        try:
            shown = read_own_head(theirs, origin, self._log_keys)
        except (MalformedError, VerificationError) as error:
            if other := self._other_ledger(theirs, origin):
                return self._failed(f"{said}; {other}")
            return self._failed(f"{said}; it shows no head of this log ({status}): {error}")
        try:
            has_it = not is_missing(self._store, shown)
        except DamagedTreeError as error:
            raise self._failed(f"{said}; its head can't be compared, since {error}") from error
        if has_it:
            size = shown.head.tree_size
            return self._failed(f"{said}; it shows a head that proves nothing: {size}")
        return VerificationError(
            f"the witness {', '.join(self.status.names)} {said}"
            f" (our head: {signed.head.tree_size})",
            evidence={"ours": signed.note.encode(), "said": said.encode(), "theirs": theirs},
        )

    def _other_ledger(self, theirs: bytes, origin: str) -> str | None:
        """What a head of this origin says that the witness cosigned under a key of no policy here.

        The witness alone says so, and could do it to anybody: it stops nothing.
        """
        try:
            shown = parse_signed_checkpoint(theirs)
            verify_note(shown.as_note(), self._keys.values())
        except (MalformedError, VerificationError):
            return None
        if shown.checkpoint.origin != origin:
            return None
        by = {f"{each.name}+{each.key_id:08x}" for each in shown.signatures if each.name == origin}
        return (
            f"it has cosigned size {shown.head.tree_size} of this origin under a key that the "
            f"policy here does not have, {', '.join(sorted(by)) or 'of another name'}: another "
            "ledger goes on with this log, such as a mirror that was promoted, and new events here "
            "get indices that it has given. Stop one of the two"
        )

    def _failed(self, what: str, retry_after_s: float = 0.0) -> UnavailableError:
        said = f"the witness {', '.join(self.status.names)}: {what}"
        return UnavailableError(said, retry_after_s=retry_after_s)


def witness_intervals(text: str, policy: Policy) -> dict[str, float]:
    """The seconds between two requests to a witness, by its name: from `w3=600,w4=3600`.

    Raises: MalformedError, which names the part.
    """
    names = {witness.name for witness in policy.witnesses}
    intervals = {}
    for part in filter(None, text.split(",")):
        name, is_pair, seconds = part.strip().rpartition("=")
        if not is_pair or _SECONDS.fullmatch(seconds) is None or int(seconds) == 0:
            raise MalformedError(
                f"witness_intervals_s: expected NAME=SECONDS, whole seconds above 0, got {part!r}"
            )
        if name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise MalformedError(
                f"witness_intervals_s: the policy has no witness {name!r}; it has {known}"
            )
        intervals[name] = float(seconds)
    return intervals


def make_session(timeout_s: float) -> aiohttp.ClientSession:
    """Kept connections, no cookies, no proxies from the environment, nothing inflated."""
    return aiohttp.ClientSession(
        connector=make_connector(),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        headers={"User-Agent": "witnessed-ledger", "Accept-Encoding": "identity"},
    )


def _excerpt(body: bytes) -> str:
    """The beginning of a stranger's text, fit for a log line."""
    text = body[:200].decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()
