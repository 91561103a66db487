"""Makes masking safe in a process that forks, and when the interpreter exits.

RE2 takes locks of its own and releases the GIL while it scans a text. Two moments are dangerous:

* A fork during a scan copies a lock that is held. The child compiles all patterns anew.
* If the interpreter exits while a thread scans, Python unwinds that thread by force when it
  returns, and C++ calls `abort()`. So each scan holds a lock that the main thread takes at exit;
  threads that would scan later wait for it, usually until they end.
"""

import atexit
import hashlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from ledger_client.runtime.files import read_utf8
from ledger_core.event.secrets import SecretRules, default_rules
from ledger_core.event.secrets.re2_sets import forget_compiled

_Read = TypeVar("_Read")
_Made = TypeVar("_Made")
KEY_FILE_VARIABLE: Final = "LEDGER_DIGEST_KEY_FILE"
_is_key = re.compile(r"[0-9a-f]{64}\n?").fullmatch

END_WAIT_S: Final = 1.0
"""Bounded, for an exit handler that runs after this one may itself wait for such a thread."""

# Reentrant: a signal handler may record during a recording.
_inside = threading.RLock()
_process_id = os.getpid()


def keyed_rules(token: str | None) -> SecretRules:
    """The built-in rules of secrets, with the key of the digests of ids.

    The key is that of the file which `LEDGER_DIGEST_KEY_FILE` names, a copy of the ledger's
    `DIR/digest.key`; without it, one that is derived from the token.

    Raises: OSError and ValueError for a file that can't be read or holds no key.
    """
    path = os.environ.get(KEY_FILE_VARIABLE)
    if path:
        return default_rules().keyed(_parse_key(path, read_utf8(Path(path))))
    secret = (token or "").encode()
    return default_rules().keyed(hashlib.blake2b(secret, person=b"wl/id-digest-key").digest())


def _parse_key(path: str, text: str) -> bytes:
    if not _is_key(text):
        raise ValueError(f"{path}, which {KEY_FILE_VARIABLE} names, does not hold 32 bytes in hex")
    return bytes.fromhex(text)


def guarded(scan: Callable[[_Read], _Made]) -> Callable[[_Read], _Made]:
    """A mask or another scan by RE2, safe in any thread at any time."""

    def scan_guarded(event: _Read) -> _Made:
        if _process_id != os.getpid():  # C code forked it, without the hook.
            _after_fork_in_child()
        lock = _inside
        is_held = lock.acquire(timeout=END_WAIT_S)
        try:
            return scan(event)
        finally:
            if is_held:
                lock.release()

    return scan_guarded


def _after_fork_in_child() -> None:
    global _inside, _process_id  # noqa: PLW0603 - a thread of the parent may hold the copied lock
    _process_id = os.getpid()
    _inside = threading.RLock()
    forget_compiled()


def _at_exit() -> None:
    _inside.acquire(timeout=END_WAIT_S)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
