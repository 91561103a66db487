"""The policy of a ledger, as its folder has it."""

import stat
from collections.abc import Sequence
from typing import NamedTuple

from ledger.log.public_policy import public_policy
from ledger.service.data_dir import DirectoryPaths
from ledger_client.runtime.files import read_limited, write_atomically
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.note import NoteVerifier
from ledger_core.tlog.policy import POLICY_BYTES_MAX, Policy, parse_policy

RETIRED = b"# Retired: it signs no head any more. Heads and evidence from before need this line:"
DISTRUSTED = b"# Retired and not trusted any more: "


class PolicyFile(NamedTuple):
    """A policy, and its text as others may read it."""

    policy: Policy
    public_text: str


def read_policy(paths: DirectoryPaths) -> PolicyFile:
    """Read the policy. Raises: UnavailableError when there is none, MalformedError."""
    return parse_policy_file(read_policy_text(paths))


def read_policy_text(paths: DirectoryPaths) -> bytes:
    """The content of the policy's file. Raises: UnavailableError when there is none."""
    try:
        return read_limited(paths.policy, POLICY_BYTES_MAX)
    except FileNotFoundError:
        raise UnavailableError(f"there is no policy at {paths.policy}") from None


def parse_policy_file(text: bytes) -> PolicyFile:
    """The policy that a file holds. Raises: MalformedError."""
    return PolicyFile(parse_policy(text), public_policy(text.decode(errors="replace")))


def replace_policy(paths: DirectoryPaths, text: bytes) -> None:
    """Replace the policy at once, for those who could read it before. Raises: OSError."""
    mode = stat.S_IMODE(paths.policy.stat().st_mode)
    write_atomically(paths.policy, text)
    paths.policy.chmod(mode)


def with_log_keys(text: bytes, verifiers: Sequence[NoteVerifier]) -> bytes:
    """The policy with a line for each of a log's keys, below its last line and with its URL.

    Everything else stays as it is. Raises: MalformedError when it has no line of that log, or room.
    """
    known = {log.verifier for log in parse_policy(text).logs}
    lines = text.split(b"\n")
    for verifier in verifiers:
        if verifier in known:
            continue
        places = [at for at, line in enumerate(lines) if _log_name(line) == verifier.name.encode()]
        if not places:
            raise MalformedError(f"the policy has no line of the log {verifier.name}")
        url = lines[places[-1]].split()[2:]
        lines.insert(places[-1] + 1, b" ".join((b"log", str(verifier).encode(), *url)))
    text = b"\n".join(lines)
    parse_policy(text)
    return text


def with_retired_keys(
    text: bytes, verifiers: Sequence[NoteVerifier], *, is_distrusted: bool
) -> bytes:
    """The policy with a comment above the lines of these keys, or with their lines commented out.

    The same again when it is done twice. Raises: MalformedError.
    """
    retired = {str(verifier).encode() for verifier in verifiers}
    lines: list[bytes] = []
    for line in text.split(b"\n"):
        is_retired = _log_name(line) is not None and line.split()[1] in retired
        if is_retired and not is_distrusted and lines[-1:] != [RETIRED]:
            lines.append(RETIRED)
        if is_retired and is_distrusted and lines[-1:] == [RETIRED]:
            lines.pop()
        lines.append(DISTRUSTED + line.strip() if is_retired and is_distrusted else line)
    text = b"\n".join(lines)
    parse_policy(text)
    return text


def _log_name(line: bytes) -> bytes | None:
    """The name of the key in a line `log VKEY`, or None for another line."""
    words = line.split()
    return words[1].split(b"+")[0] if words[:1] == [b"log"] and len(words) > 1 else None
