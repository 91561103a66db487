"""Asks a mirror what it has, without sending an entry: is it reachable, has it the right key?"""

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ledger.mirror_push.config import MirrorTarget, mirror_verifiers
from ledger.mirror_push.heads import OwnHeads
from ledger.mirror_push.mirror_client import MirrorClient, UnknownKeyError
from ledger.object_storage.open_log import open_log
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy


class Standing(NamedTuple):
    """How far a mirror is with the published head, of `tree_size` entries.

    `kept`: the entries that it has. `cosigned_size`: of the last head that it cosigned by one of
    the known keys, whose names are `cosigners`; None when it has shown no cosignature.
    """

    tree_size: int
    kept: int
    cosigned_size: int | None
    cosigners: tuple[str, ...]


async def try_mirror(directory: Path, target: MirrorTarget) -> Standing:
    """Show the published head of a ledger to a mirror, and ask what it has.

    The mirror gets the head, as it does each second, and no entry.
    Raises: UnavailableError, VerificationError; MalformedError for a policy without keys for it.
    """
    policy = parse_policy(read_limited(directory / "policy", POLICY_BYTES_MAX))
    verifiers = mirror_verifiers(target, policy)
    if not verifiers:
        raise MalformedError("vkeys: the table names no key of the mirror, and the policy neither")
    with closing(open_log(directory / "log")) as log:
        signed = OwnHeads(directory, log, policy).published()
        if signed is None:
            raise UnavailableError("the log has published no head yet: start its service first")
        client = MirrorClient(
            target, log, verifiers=verifiers, next_entry=0, on_kept=lambda _next_entry: None
        )
        try:
            probed = await client.probe(signed)
            size, cosignatures = signed.head.tree_size, probed.cosignatures
            if not cosignatures:
                shown = await client.fetch_cosigned(log.origin())
                size, cosignatures = shown if shown is not None else (0, ())
        except UnknownKeyError as error:
            raise VerificationError(str(error)) from None  # No case for trying again.
        finally:
            await client.close()
    names = tuple(dict.fromkeys(each.name for each in cosignatures))
    return Standing(signed.head.tree_size, probed.kept, size if names else None, names)
