"""`ledger verify`: verify offline that events are in a log that the policy trusts.

The input is a leaf and its proof, or a file of evidence with many.
"""

from pathlib import Path
from zipfile import is_zipfile

import click

from ledger_client.cli.client_options import EXISTING_FILE, required_policy_option
from ledger_client.cli.console import format_second, json_option, note, print_fields, print_json
from ledger_core.event.canonical import Leaf, parse_leaf
from ledger_core.event.model import Event
from ledger_core.evidence.verifier import Evidence, check_evidence
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.policy import Policy, VerifiedHead, parse_policy
from ledger_core.tlog.proof import check_proof, parse_proof

TARGETS_SHOWN = 4


@click.command("verify")
@click.argument("file", metavar="NAME.leaf.json|EVIDENCE.zip", type=EXISTING_FILE)
@click.argument("proof_file", metavar="[NAME.tlog-proof]", type=EXISTING_FILE, required=False)
@required_policy_option
@json_option
def command(file: Path, proof_file: Path | None, policy: Path, as_json: bool) -> None:
    """Verify an event and its proof, or all events of an evidence file.

    Exit code 0: verified; 1: not verified; 2: malformed. Needs only the files, and no server.
    """
    trusted = parse_policy(policy.read_bytes())
    if proof_file is None:
        if not is_zipfile(file):
            raise click.UsageError("give a leaf and its proof, or one .zip of evidence")
        _verify_evidence(file, trusted, as_json=as_json)
    else:
        _verify_leaf(file, proof_file, trusted, as_json=as_json)


def _verify_leaf(leaf_file: Path, proof_file: Path, policy: Policy, *, as_json: bool) -> None:
    proof = parse_proof(proof_file.read_bytes())
    leaf_bytes = leaf_file.read_bytes()
    # Parsed only to be shown: the proof is over the bytes.
    leaf = parse_leaf(leaf_bytes)
    head = check_proof(proof, leaf_hash=leaf_hash(leaf_bytes), policy=policy)
    if as_json:
        print_json(verdict(leaf, proof.leaf_index, head))
        return
    click.secho("verified", fg="green", bold=True)
    print_fields(described(leaf, proof.leaf_index, head))


def _verify_evidence(file: Path, policy: Policy, *, as_json: bool) -> None:
    """Raises: VerificationError when anything in the file does not verify, or nothing is in it."""
    evidence = check_evidence(file, policy)
    if as_json:
        print_json(_evidence_verdict(evidence))
    elif not evidence.faults and evidence.indices:
        click.secho("verified", fg="green", bold=True)
        print_fields(_evidence_fields(evidence))
        if evidence.policy_differs:
            note("the policy inside differs from the one given; the one given was used")
    if evidence.faults:
        for fault in evidence.faults:
            note(f"not verified: {fault}")
        raise VerificationError(f"{file.name}: {len(evidence.faults)} faults")
    if not evidence.indices:
        raise VerificationError(
            f"{file.name} has no events, so it proves nothing: not even that no event matches"
        )


def _evidence_verdict(evidence: Evidence) -> dict[str, object]:
    head = evidence.head
    return {
        "verified": bool(evidence.indices) and not evidence.faults,
        "faults": evidence.faults,
        "query": evidence.manifest.query,
        "events": len(evidence.indices),
        "indices": evidence.indices,
        **head_verdict(head),
    }


def _evidence_fields(evidence: Evidence) -> dict[str, object]:
    indices = evidence.indices
    span = f", entries {min(indices)} to {max(indices)}" if indices else ""
    return {
        "query": evidence.manifest.query or "every event",
        "events": f"{len(indices)}{span}, each in the log",
        "log": evidence.head.checkpoint.origin,
        **head_fields(evidence.head),
    }


def verdict(leaf: Leaf, leaf_index: int, head: VerifiedHead) -> dict[str, object]:
    """The verified entry and head, as JSON for programs."""
    return {
        "verified": True,
        "index": leaf_index,
        "event": leaf.event,
        "received": leaf.received,
        **head_verdict(head),
    }


def head_verdict(head: VerifiedHead) -> dict[str, object]:
    """The head that the proof is against, as JSON for programs."""
    return {
        "origin": head.checkpoint.origin,
        "tree_size": head.checkpoint.tree_size,
        "root_hash": head.checkpoint.root_hash.hex(),
        "log_key": head.log_key,
        "cosignatures": cosignatures(head),
        "existed_before": _second(head.existed_before_unix_s),
    }


def cosignatures(head: VerifiedHead) -> list[dict[str, object]]:
    """The witnesses of the policy that cosigned a head, and when, as JSON for programs."""
    return [
        {"witness": name, "cosigned_at": _second(time_s), "cosigned_at_unix_s": time_s}
        for name, time_s in head.cosignatures
    ]


def described(leaf: Leaf, leaf_index: int, head: VerifiedHead) -> dict[str, object]:
    """The verified entry and head, as fields for people."""
    return {
        **event_fields(leaf.event),
        "received": f"{leaf.received.time} by {leaf.received.by}",
        "entry": f"{leaf_index} of {head.checkpoint.origin}",
        **head_fields(head),
    }


def head_fields(head: VerifiedHead) -> dict[str, object]:
    """The head that the proof is against, as fields for people."""
    checkpoint = head.checkpoint
    return {
        "head": f"size {checkpoint.tree_size}, root {checkpoint.root_hash.hex()}",
        "cosigned": tuple(
            f"{_second(time_s) or 'at no stated time'} by {name}"
            for name, time_s in head.cosignatures
        )
        or "by no witness: only the log itself has signed it",
        "existed": _existed(head),
    }


def _existed(head: VerifiedHead) -> str | None:
    """The time before which the entry existed, and who states it."""
    if head.existed_before_unix_s is not None:
        before = _second(head.existed_before_unix_s)
        return f"before {before}, as the policy's quorum states"
    stated = [(time_s, name) for name, time_s in head.cosignatures if time_s]
    if not stated:
        return None
    time_s, name = min(stated)
    return f"before {_second(time_s)}, as {name} alone states"


def _second(unix_s: int | None) -> str | None:
    """A time that a witness stated; 0 means that it stated none."""
    return format_second(unix_s) if unix_s else None


def event_fields(event: Event) -> dict[str, object]:
    """An event, as fields for people."""
    source = event.source or None
    where = source and " ".join(
        str(part) for part in (source.ip, source.service, source.user_agent) if part
    )
    targets = [" ".join(filter(None, (t.type or "", t.id))) for t in event.targets or ()]
    if len(targets) > TARGETS_SHOWN:
        targets[TARGETS_SHOWN:] = [f"and {len(targets) - TARGETS_SHOWN} more"]
    return {
        "id": event.id or None,
        "time": event.time or None,
        "who": " ".join(filter(None, (event.actor.type or "", event.actor.id))),
        "what": f"{event.action} ({event.outcome})",
        "to": ", ".join(targets) or None,
        "from": where or None,
        "reason": event.reason or None,
        "tenant": event.tenant or None,
    }
