"""Policies: the logs, and the quorum of witnesses, that make a checkpoint valid.

    # Two of three, on hosts that the log's operator does not own.
    log example.com/audit+7df6c1fa+AXd… https://log.example.com/
    witness w1 witness.example/w1+3eb5f1aa+BF0… https://witness.example/w1/
    witness w2 …
    witness w3 …
    group two-of-three 2 w1 w2 w3
    quorum two-of-three

A checkpoint is valid when a log of the policy signed it, its origin being the name of that key, and
when the quorum holds: a witness by its cosignature, a group by enough of its members (`any`, `all`
or a number), `quorum none` always. A witness or group may belong to one group only, so that no
cosignature counts twice.

The file is lines of octets, each ending with a newline. Spaces and tabs separate words; a line that
begins with `#`, spaces apart, is a comment. Octets above 0x7F mean nothing and are compared as they
are. The names of witnesses and groups mean nothing outside of the file.

Source: c2sp.org/tlog-policy.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import CosignatureVerifier, cosigned_at_unix_s, parse_verifier
from ledger_core.tlog.errors import (
    MalformedError,
    UnavailableError,
    UnlistedKeyError,
    VerificationError,
)
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.keys import ED25519, MLDSA44_COSIGNATURE
from ledger_core.tlog.note import (
    NoteVerifier,
    Signature,
    Verifier,
    check_algorithm,
    known_keys,
    verify_note,
)
from ledger_core.tlog.text import excerpt, from_wire, parse_size

POLICY_BYTES_MAX = 1 << 20
LOGS_MAX = 64
WITNESSES_MAX = 48
"""A note carries 64 signatures: of all witnesses, of the log, and some by unknown keys."""

GROUPS_MAX = 64
KEYS_NAMED_MAX = 4

LOG_ALGORITHMS = (ED25519, MLDSA44_COSIGNATURE)
_NONE = "none"
_FORBIDDEN = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")


@dataclass(frozen=True, slots=True)
class PolicyLog:
    """A trusted log. Its origin is the name of its key."""

    verifier: Verifier | CosignatureVerifier
    url: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyWitness:
    """A trusted witness, under the name that this policy gives it."""

    name: str
    verifier: CosignatureVerifier
    url: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyGroup:
    """A group that holds when `threshold` of its members do; each is defined before the group."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedHead:
    """A checkpoint whose signatures met a policy. `Policy.check` alone makes it.

    It is a type of its own beside `SignedCheckpoint`, so that a function that takes one can't be
    given a checkpoint that nobody verified.
    """

    checkpoint: Checkpoint
    note: str
    cosignatures: tuple[tuple[str, int], ...]
    """The policy's name of each witness that cosigned, and when, in seconds since 1970."""
    log_key: str
    """The vkey of the log that signed."""
    existed_before_unix_s: int | None
    """The first time by which the quorum had cosigned; None where there is no quorum, or no time.

    The earliest time of all would be the statement of one witness, where the policy asks for more.
    """


@dataclass(frozen=True, slots=True)
class Policy:
    """The configuration of a verifier; `parse_policy` makes it.

    Names that are not UTF-8 are kept as Python keeps such file names (PEP 383).
    """

    logs: tuple[PolicyLog, ...]
    witnesses: tuple[PolicyWitness, ...]
    groups: tuple[PolicyGroup, ...]
    quorum: str | None
    """The witness or the group that must have cosigned; None is `quorum none`."""

    def __post_init__(self) -> None:
        """Raises: ValueError when a signature could be of two keys."""
        known_keys(self._verifiers())

    def check(self, note: bytes | str) -> VerifiedHead:
        """Check a signed note by this policy; returns its checkpoint.

        Every signature of a key in the policy is verified, and one bad one condemns the note.
        Cost: 60 to 120 µs a signature.

        Raises: MalformedError when it is not a note or not a checkpoint; VerificationError saying
        which log, or which part of the quorum, is missing.
        """
        signed = parse_signed_checkpoint(note)
        checkpoint = signed.checkpoint
        if not any(log.verifier.name == checkpoint.origin for log in self.logs):
            names = ", ".join(dict.fromkeys(log.verifier.name for log in self.logs)) or "none"
            raise VerificationError(
                f"no log of the policy has the origin {checkpoint.origin}; it has {names}"
            )
        self._check_log_key(signed)
        verified = verify_note(signed.as_note(), self._verifiers())
        log_keys = self._log_keys(checkpoint, verified)
        if checkpoint.tree_size == 0 and checkpoint.root_hash != EMPTY_ROOT_HASH:
            raise VerificationError(
                f"{checkpoint.root_hash.hex()} is not the root of the empty tree"
            )
        times = self._times(verified)
        self._check_quorum(times)
        return VerifiedHead(
            checkpoint=checkpoint,
            note=signed.note,
            cosignatures=tuple((shown(name), time_unix_s) for name, time_unix_s in times.items()),
            log_key=str(log_keys[0]),
            existed_before_unix_s=self._existed_before(times),
        )

    def is_quorum(self, witnesses: Collection[str]) -> bool:
        """Whether these witnesses meet the quorum, named as in `VerifiedHead.cosignatures`."""
        names = [witness.name for witness in self.witnesses if shown(witness.name) in witnesses]
        return self.quorum is None or self.quorum in self._holding(names)

    def _verifiers(self) -> Iterator[NoteVerifier]:
        for log in self.logs:
            yield log.verifier
        for witness in self.witnesses:
            yield witness.verifier

    def _check_log_key(self, signed: SignedCheckpoint) -> None:
        """Name the keys of a log whose signatures are all by keys that the policy does not list."""
        origin = signed.checkpoint.origin
        known = {(each.verifier.name, each.verifier.key_id) for each in self.logs}
        own = [(each.name, each.key_id) for each in signed.signatures if each.name == origin]
        if own and known.isdisjoint(own):
            found = ", ".join(f"{name}+{key_id:08x}" for name, key_id in own[:KEYS_NAMED_MAX])
            raise UnlistedKeyError(
                f"the checkpoint is signed by {found}, which the policy does not list: if the log "
                "has rotated its key, ask its operator for the policy with both keys"
            )

    def _log_keys(
        self, checkpoint: Checkpoint, verified: Sequence[Signature]
    ) -> list[NoteVerifier]:
        """The keys by which the log of this origin signed."""
        origin = checkpoint.origin
        known = known_keys(log.verifier for log in self.logs if log.verifier.name == origin)
        names = ((signature.name, signature.key_id) for signature in verified)
        keys = [known[name] for name in names if name in known]
        if not keys:
            raise VerificationError(f"the log {checkpoint.origin} did not sign its checkpoint")
        if checkpoint.extensions and all(key.algorithm == MLDSA44_COSIGNATURE for key in keys):
            raise VerificationError(
                f"the log {checkpoint.origin} did not sign the extension lines of its checkpoint: "
                "an ML-DSA-44 signature leaves them out"
            )
        return keys

    def _times(self, verified: Sequence[Signature]) -> dict[str, int]:
        """By the name of each witness that cosigned, the latest time that it stated."""
        times: dict[str, int] = {}
        for witness in self.witnesses:
            key = witness.verifier.name, witness.verifier.key_id
            stated = [
                cosigned_at_unix_s(signature)
                for signature in verified
                if (signature.name, signature.key_id) == key
            ]
            if stated:
                times[witness.name] = max(stated)
        return times

    def _existed_before(self, times: Mapping[str, int]) -> int | None:
        """The first of these times by which the quorum had cosigned."""
        if self.quorum is None:
            return None
        # Time 0 stands for an unknown time.
        stated = {name: time_unix_s for name, time_unix_s in times.items() if time_unix_s}
        for time_unix_s in sorted(stated.values()):
            if self.quorum in self._holding([n for n, t in stated.items() if t <= time_unix_s]):
                return time_unix_s
        return None

    def _holding(self, cosigned: Collection[str]) -> set[str]:
        """The witnesses that cosigned, and the groups that hold by them."""
        holding = set(cosigned)
        # Members stand before their group, so one pass is enough.
        for group in self.groups:
            if len(holding.intersection(group.members)) >= group.threshold:
                holding.add(group.name)
        return holding

    def _check_quorum(self, cosigned: Collection[str]) -> None:
        holding = self._holding(cosigned)
        if self.quorum is not None and self.quorum not in holding:
            reasons = "; ".join(self._missing(self.quorum, holding))
            raise VerificationError(f"the quorum is not met: {reasons}")

    def _missing(self, name: str, holding: Collection[str]) -> Iterator[str]:
        """The reasons why a name does not hold, from the name down to the witnesses."""
        group = next((group for group in self.groups if group.name == name), None)
        if group is None:
            yield f"witness {shown(name)} has not cosigned"
            return
        missing = [member for member in group.members if member not in holding]
        yield (
            f"group {shown(name)}: {len(group.members) - len(missing)} of {group.threshold} "
            f"needed, missing {', '.join(map(shown, missing))}"
        )
        for member in missing:
            if any(group.name == member for group in self.groups):
                yield from self._missing(member, holding)


def parse_policy(data: bytes) -> Policy:
    """The policy in a file.

    Raises: MalformedError naming the line; UnavailableError when a key is of type ML-DSA-44 and the
    extra `ml-dsa` is not installed: no key is left out, for a quorum could be met without it.
    """
    if len(data) > POLICY_BYTES_MAX:
        raise MalformedError(f"a policy has at most {POLICY_BYTES_MAX} bytes, got {len(data)}")
    *lines, rest = data.split(b"\n")
    if rest:
        raise MalformedError("the last line of the policy does not end with a newline")
    draft = _Draft()
    for number, line in enumerate(lines, 1):
        try:
            draft.add(line)
        except (MalformedError, UnavailableError) as error:
            raise type(error)(f"line {number} of the policy: {error}") from None
    return draft.finish()


def format_policy(logs: Iterable[NoteVerifier]) -> str:
    """Format a policy that trusts these logs without witnesses.

    Raises: ValueError for a key that is for witnesses.
    """
    lines = []
    for verifier in logs:
        check_algorithm(verifier.key, *LOG_ALGORITHMS)
        lines.append(f"log {verifier}\n")
    return "".join((*lines, f"quorum {_NONE}\n"))


class _Draft:
    """A policy as far as its lines have been read."""

    def __init__(self) -> None:
        self._logs: list[PolicyLog] = []
        self._witnesses: list[PolicyWitness] = []
        self._groups: list[PolicyGroup] = []
        self._quorums: list[str | None] = []
        self._names: set[str] = set()
        self._members: set[str] = set()

    def add(self, line: bytes) -> None:
        """Add one line, without its newline. Raises: MalformedError."""
        if octet := _FORBIDDEN.search(line):
            raise MalformedError(f"the octet {octet[0].hex()} is not allowed")
        # bytes.split knows the spaces of ASCII alone, of which only two are left.
        words = [word.decode(errors="surrogateescape") for word in line.split()]
        match words:
            case []:
                pass
            case [word, *_] if word.startswith("#"):
                pass
            case ["log", vkey, *url] if len(url) <= 1:
                self._add_log(vkey, *url)
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._add_witness(name, vkey, *url)
            case ["group", name, threshold, *members] if members:
                self._add_group(name, threshold, members)
            case ["quorum", name]:
                self._add_quorum(name)
            case [("log" | "witness" | "group" | "quorum") as keyword, *_]:
                raise MalformedError(f"wrong number of words after {keyword}")
            case [keyword, *_]:
                raise MalformedError(f"unknown keyword {excerpt(keyword)}")

    def finish(self) -> Policy:
        """The policy after its last line. Raises: MalformedError."""
        if not self._quorums:
            raise MalformedError(
                "the policy has no quorum line: quorum NAME of a witness or group, or quorum none"
            )
        with from_wire():
            return Policy(
                logs=tuple(self._logs),
                witnesses=tuple(self._witnesses),
                groups=tuple(self._groups),
                quorum=self._quorums[0],
            )

    def _add_log(self, vkey: str, url: str | None = None) -> None:
        verifier = parse_verifier(vkey)
        if verifier.algorithm not in LOG_ALGORITHMS:
            raise MalformedError(f"{verifier.key!r} is a key for witnesses, not for logs")
        _check_room("logs", self._logs, LOGS_MAX)
        _check_new_key(verifier, self._logs)
        self._logs.append(PolicyLog(verifier, url))

    def _add_witness(self, name: str, vkey: str, url: str | None = None) -> None:
        verifier = parse_verifier(vkey)
        if not isinstance(verifier, CosignatureVerifier):
            raise MalformedError(f"{verifier.key!r} is a key for logs, not for witnesses")
        _check_room("witnesses", self._witnesses, WITNESSES_MAX)
        _check_new_key(verifier, self._witnesses)
        self._define(name)
        self._witnesses.append(PolicyWitness(name, verifier, url))

    def _add_group(self, name: str, threshold: str, members: list[str]) -> None:
        _check_room("groups", self._groups, GROUPS_MAX)
        for member in members:
            self._check_defined(member)
            if member in self._members:
                raise MalformedError(f"{shown(member)} is a member already, here or elsewhere")
            self._members.add(member)
        # Defined after its members, so that a group is no member of itself.
        self._define(name)
        words = {"any": 1, "all": len(members)}
        count = words[threshold] if threshold in words else parse_size(threshold)
        if not 1 <= count <= len(members):
            raise MalformedError(f"a group of {len(members)} can't need {count}")
        self._groups.append(PolicyGroup(name, count, tuple(members)))

    def _add_quorum(self, name: str) -> None:
        if self._quorums:
            raise MalformedError("a policy has one quorum line")
        if name != _NONE:
            self._check_defined(name)
        self._quorums.append(None if name == _NONE else name)

    def _define(self, name: str) -> None:
        if name == _NONE:
            raise MalformedError(f"nothing may be called {_NONE}")
        if name in self._names:
            raise MalformedError(f"{shown(name)} is defined twice")
        self._names.add(name)

    def _check_defined(self, name: str) -> None:
        if name not in self._names:
            raise MalformedError(f"{shown(name)} is not defined on a line above")


def _check_room(what: str, entries: Collection[object], count_max: int) -> None:
    if len(entries) >= count_max:
        raise MalformedError(f"a policy has at most {count_max} {what}")


def _check_new_key(
    verifier: NoteVerifier, entries: Iterable[PolicyLog] | Iterable[PolicyWitness]
) -> None:
    # By the public key: under a second name the same party would count twice.
    if any(entry.verifier.public_key == verifier.public_key for entry in entries):
        raise MalformedError(f"{verifier.key!r} has the public key of a line above")


def shown(name: str) -> str:
    """A name of the policy as valid text, with octets that are not UTF-8 escaped."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
