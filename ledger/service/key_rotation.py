"""Rotates the log's key: for a period the old and the new one sign, then the new one alone.

    rotate   1. DIR/key holds the old keys and the new ones, in this order
             2. the event `ledger.key.rotated` is in the outbox
             3. DIR/policy has a line for each new key, below those of the old ones
    retire   1. DIR/policy has a comment above the line of each old key, or no longer has the line
             2. the event `ledger.key.retired` is in the outbox
             3. DIR/key holds the new keys alone

The last key of each signature type is the current one; a key of its type before it is old. So the
key file alone says whether a rotation is under way. A service uses what is there when it starts.

The crash windows are between these steps, each of which is durable before the next. The last step
of each is what ends it, so a command that was interrupted is ended by the same command; the log
then may have its event twice. After step 1 of `rotate` a service that starts signs with both keys,
and verifiers ignore the one that they don't know. No key is ever lost: the old one goes last.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from ledger.log.signing import LogSigner, have_signed
from ledger.object_storage.open_log import open_log
from ledger.runtime.keys import replace_keys
from ledger.service.data_dir import DirectoryPaths, read_signers
from ledger.service.operator_events import record_act
from ledger.service.policy_file import replace_policy, with_log_keys, with_retired_keys
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.keys import ED25519, PrivateKey, SignerKey
from ledger_core.tlog.note import NoteVerifier, Signer
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy


class SigningKeys(NamedTuple):
    """The keys of a log: those that are being replaced, none unless a rotation is under way."""

    old: tuple[LogSigner, ...]
    current: tuple[LogSigner, ...]


def divide(signers: Sequence[LogSigner]) -> SigningKeys:
    """Tell the old keys from the current ones: the last of each signature type."""
    last = {signer.verifier.algorithm: signer for signer in signers}
    current = tuple(last.values())
    return SigningKeys(tuple(signer for signer in signers if signer not in current), current)


def rotate(
    paths: DirectoryPaths, *, make_seed: Callable[[], bytes], key: PrivateKey | None = None
) -> SigningKeys:
    """Begin a rotation: a new key beside each old one. `make_seed` gives 32 random bytes.

    `key`: the new Ed25519 key, if another process holds it.

    Raises: ValueError when a rotation is under way, or `key` is in use already; as `read_signers`,
    `parse_policy`.
    """
    keys, policy = _read(paths)
    if keys.old:
        if _has_lines(policy, keys.current):
            raise ValueError(
                "a rotation is under way: end it with ledger key retire before you begin another"
            )
    else:
        if key is not None and key.verifier_key in {each.key.verifier_key for each in keys.current}:
            raise ValueError("this is the log's key already: have the agent hold a new one")
        keys = SigningKeys(
            keys.current, tuple(_renew(each, make_seed, key) for each in keys.current)
        )
    new_policy = with_log_keys(policy, [signer.verifier for signer in keys.current])
    replace_keys(paths.key, [signer.key for signer in (*keys.old, *keys.current)])
    _record(paths, "ledger.key.rotated", keys)
    replace_policy(paths, new_policy)
    return keys


def retire(paths: DirectoryPaths, *, is_distrusted: bool = False) -> SigningKeys:
    """End a rotation: the new keys sign alone. `is_distrusted`: the policy forgets the old ones.

    Raises: ValueError when no rotation is under way, it was interrupted, or no head that the new
    keys have signed was published yet; as `read_signers`, `parse_policy`.
    """
    keys, policy = _read(paths)
    if not keys.old:
        raise ValueError("no rotation is under way: ledger key rotate begins one")
    if not _has_lines(policy, keys.current):
        raise ValueError("the rotation was interrupted: run ledger key rotate again")
    with closing(open_log(paths.log)) as log:
        published = log.published()
    if published is None or not have_signed(keys.current, published.signatures):
        raise ValueError(
            "no head was published with the new key yet: start the service again, which then signs "
            "with both, and give the new policy to everybody who verifies"
        )
    old = [signer.verifier for signer in keys.old]
    replace_policy(paths, with_retired_keys(policy, old, is_distrusted=is_distrusted))
    _record(paths, "ledger.key.retired", keys)
    replace_keys(paths.key, [signer.key for signer in keys.current])
    return keys


def _read(paths: DirectoryPaths) -> tuple[SigningKeys, bytes]:
    """The keys and the policy. Raises: PermissionError for a user who doesn't own the key file."""
    signers = read_signers(paths)
    # Another user's files would be in their place, which the service could not read.
    if paths.key.stat().st_uid != os.geteuid():
        raise PermissionError(f"{paths.key} is another user's: run this as the user of the service")
    return divide(signers), read_limited(paths.policy, POLICY_BYTES_MAX)


def _renew(signer: LogSigner, make_seed: Callable[[], bytes], held: PrivateKey | None) -> LogSigner:
    name, algorithm = signer.verifier.name, signer.verifier.algorithm
    if algorithm == ED25519:
        return Signer(held or SignerKey(name, algorithm=algorithm, seed=make_seed()))
    return CosignatureSigner(SignerKey(name, algorithm=algorithm, seed=make_seed()))


def _has_lines(policy: bytes, signers: Sequence[LogSigner]) -> bool:
    known: set[NoteVerifier] = {log.verifier for log in parse_policy(policy).logs}
    return known.issuperset(signer.verifier for signer in signers)


def _record(paths: DirectoryPaths, action: str, keys: SigningKeys) -> None:
    """Record which keys are old and which are new, whole: a key id binds nothing."""
    origin = {signer.verifier.name for signer in (*keys.old, *keys.current)}
    if len(origin) != 1:
        raise MalformedError(f"{paths.key} has keys of several logs: {', '.join(sorted(origin))}")
    context = {
        "old": [str(signer.verifier) for signer in keys.old],
        "new": [str(signer.verifier) for signer in keys.current],
    }
    record_act(paths, action, targets=[("ledger.log", origin.pop())], context=context)
