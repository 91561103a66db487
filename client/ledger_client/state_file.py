"""The file that keeps the accepted head, so that a restarted client still knows its log.

    {"version": 1,
     "log_keys": ["example.com/audit+1c2d3e4f+AYKW0zR…"],
     "checkpoint": "example.com/audit\\n1024\\n…\\n\\n— example.com/audit …\\n"}

* `log_keys` are the keys in the policy that the user configured. A file for other keys is refused,
  unless its head has a signature of a key that the policy of today lists, as while a log's key is
  replaced; the server is never asked for its keys.
* The checkpoint is checked again whenever the file is read (`trust.check_anchor`).
* The file is replaced atomically: readers see the old head or the new one, also after a crash.
* It is written at most once a second, and at `close()`. After a crash it may be a second old, and
  clients that share it overwrite each other's head. Both are sound: any accepted head is an anchor,
  since later heads must be proven to extend it.
* Evidence of an untrue answer is saved in a folder beside it, `FILE.evidence/NAME/`, one file for
  each part. NAME is a hash of the content, so the same evidence is saved once.
* Two heads that the log has signed are kept apart from smaller lies: `forked-NAME` has two roots of
  one size, which only the holder of the log's key can make, and `unproven-NAME` two heads without a
  proof between them. Of each kind, as of the rest, there are `EVIDENCE_FOLDERS_MAX` folders at
  most. Of the rest the first ones stay; of heads the first half and the newest, so that who tells
  many lies first, or shows many forks, hides none.
"""

import os
import threading
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Final

import msgspec

from ledger_client.runtime.files import write_atomically
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.policy import Policy
from ledger_core.tlog.text import decode_text
from ledger_core.tlog.trust import check_anchor

STATE_VERSION = 1
STATE_BYTES_MAX = 1 << 20
SAVE_INTERVAL_S = 1.0
EVIDENCE_FOLDERS_MAX = 100
FORKED = "forked"
UNPROVEN = "unproven"
EVIDENCE_BYTES_MAX = 1 << 30
"""A server that answers falsely all day must not fill the client's disk."""


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: int
    log_keys: list[str]
    checkpoint: str


class StateFile:
    """The file that holds the latest accepted head of one log. Safe from many threads."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        policy: Policy,
        monotonic_s: Callable[[], float],
        evidence: Path | None = None,
    ) -> None:
        """The file need not exist; its folder must when it is first written.

        `evidence` is the folder for evidence, where it isn't `FILE.evidence`.
        """
        self.path: Final = Path(path)
        self._evidence: Final = evidence or self.path.with_name(self.path.name + ".evidence")
        self._policy: Final = policy
        self._log_keys: Final = sorted(str(log.verifier) for log in policy.logs)
        self._monotonic_s: Final = monotonic_s
        self._lock: Final = threading.Lock()
        self._saved: str | None = None  # Guarded by _lock: the note that is on disk.
        self._saved_at_s: float | None = None  # Guarded by _lock.

    def load(self) -> str | None:
        """The saved note, checked; None when there is no file yet.

        Raises: ValueError when it belongs to another log; MalformedError, VerificationError when
        no client wrote the file; OSError. Each message names the file.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(STATE_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        state = self._decode(data)
        try:
            check_anchor(state.checkpoint, self._policy)
        except MalformedError as error:
            raise MalformedError(f"{self.path} holds no signed head: {error}") from error
        except VerificationError as error:
            # Saved under another policy, the head may still have a signature that this one knows:
            # while a key is replaced, each head has two.
            if not set(state.log_keys) & set(self._log_keys):
                raise ValueError(
                    f"{self.path} keeps the head of a log with another key than the policy names:"
                    f" got {', '.join(state.log_keys)}; name another state file, or if the log's"
                    " key was replaced, verify once by a policy with both keys"
                ) from None
            raise VerificationError(
                f"{self.path} holds a head that no log of the policy signed: {error}",
                evidence={"state.json": data},
            ) from error
        with self._lock:
            self._saved = state.checkpoint
        return state.checkpoint

    def is_due(self, note: str) -> bool:
        """Whether `save` is due: another head, and a second since the last save."""
        with self._lock:
            if note == self._saved:
                return False
            if self._saved_at_s is None:
                return True
            return self._monotonic_s() - self._saved_at_s >= SAVE_INTERVAL_S

    def save(self, note: str) -> None:
        """Replace the file by one that holds this note. Raises: OSError."""
        with self._lock:
            if note == self._saved:
                return
            state = _State(version=STATE_VERSION, log_keys=self._log_keys, checkpoint=note)
            write_atomically(
                self.path, msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n"
            )
            self._saved = note
            self._saved_at_s = self._monotonic_s()

    def save_evidence(
        self, evidence: Mapping[str, bytes], *, is_final: bool = False
    ) -> Path | None:
        """Save evidence. Returns its folder, or None when there are too many, or too many bytes.

        Two signed heads are always saved, and so is evidence that `is_final`, after which no more
        comes. Raises: OSError.
        """
        name = sha256()
        for part in sorted(evidence):
            name.update(sha256(part.encode()).digest() + sha256(evidence[part]).digest())
        parent = self._evidence
        kind = self._kind(evidence)
        folder = parent / f"{kind}{name.hexdigest()[:16]}"
        with self._lock:
            parent.mkdir(mode=0o700, exist_ok=True)
            more_bytes = sum(map(len, evidence.values()))
            if not (kind or is_final or folder.exists() or _has_room(parent, more_bytes)):
                return None
            folder.mkdir(mode=0o700, exist_ok=True)
            for part, data in evidence.items():
                write_atomically(folder / part, data)
            if kind:  # After that: a crash in between leaves one too many.
                _keep_first_and_newest(parent, kind)
        return folder

    def _kind(self, evidence: Mapping[str, bytes]) -> str:
        """What the name of a folder begins with: for two heads that the log has signed."""
        try:
            accepted, offered = (
                check_anchor(decode_text(evidence[part]), self._policy).checkpoint
                for part in ("accepted.note", "offered.note")
            )
        except (KeyError, MalformedError, VerificationError):
            return ""
        if accepted.tree_size != offered.tree_size:
            return f"{UNPROVEN}-"
        return "" if accepted.root_hash == offered.root_hash else f"{FORKED}-"

    def _decode(self, data: bytes) -> _State:
        if len(data) > STATE_BYTES_MAX:
            raise MalformedError(f"{self.path} is too long: want {STATE_BYTES_MAX} bytes at most")
        try:
            state = msgspec.json.decode(data, type=_State)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedError(f"{self.path} is not a state file: {error}") from None
        if state.version != STATE_VERSION:
            raise MalformedError(f"{self.path} has version {state.version}, want {STATE_VERSION}")
        return state


def _has_room(parent: Path, more_bytes: int) -> bool:
    """Whether a folder for evidence may get one folder more of no kind, with so many bytes."""
    folders = [each for each in parent.iterdir() if not each.name.startswith((FORKED, UNPROVEN))]
    kept_bytes = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    return len(folders) < EVIDENCE_FOLDERS_MAX and kept_bytes + more_bytes <= EVIDENCE_BYTES_MAX


def _keep_first_and_newest(parent: Path, kind: str) -> None:
    """Remove folders of a kind from the middle of its time, down to `EVIDENCE_FOLDERS_MAX`."""
    half = EVIDENCE_FOLDERS_MAX // 2
    folders = [(each.stat().st_mtime_ns, each) for each in parent.glob(f"{kind}*")]
    for _, folder in sorted(folders)[half:-half]:
        rmtree(folder)
