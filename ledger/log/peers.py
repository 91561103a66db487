"""The peers that a publisher asks for cosignatures: witnesses by HTTP, and mirrors by files."""

from collections.abc import Sequence
from typing import TypeAlias

import aiohttp

from ledger.log.mirror_peer import MIRRORS_FILE, MirrorPeer
from ledger.log.witness_client import PeerOptions, WitnessPeer
from ledger.store.log import LogStore
from ledger_core.tlog.policy import Policy, PolicyWitness

Peer: TypeAlias = WitnessPeer | MirrorPeer


def open_peers(
    policy: Policy, session: aiohttp.ClientSession, *, store: LogStore, options: PeerOptions
) -> tuple[Peer, ...]:
    """A peer for each address of the policy, and for each witness that may be a mirror of ours.

    Such a witness has no address, and counts only when there is a file of mirrors at the start.
    """
    log_keys = [log.verifier for log in policy.logs]
    peers: list[Peer] = [
        WitnessPeer(group, session, store=store, log_keys=log_keys, options=options)
        for group in peer_groups(policy.witnesses)
    ]
    directory = options.mirrors
    if directory is not None and (directory / MIRRORS_FILE).exists():
        peers += [
            MirrorPeer(
                witness,
                directory=directory,
                timeout_s=options.timeout_s,
            )
            for witness in policy.witnesses
            if witness.url is None
        ]
    return tuple(peers)


def peer_groups(witnesses: Sequence[PolicyWitness]) -> tuple[Sequence[PolicyWitness], ...]:
    """The witnesses of a policy by their URLs. A witness without one can't be asked."""
    by_url: dict[str, list[PolicyWitness]] = {}
    for witness in witnesses:
        if witness.url is not None:
            by_url.setdefault(witness.url, []).append(witness)
    return tuple(by_url.values())
