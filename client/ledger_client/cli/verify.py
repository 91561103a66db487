"""`ledger verify`: verify offline that events are in a log that the policy trusts.

The input is a leaf and its proof, or a file of evidence with many.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from zipfile import is_zipfile

import click

from ledger_client.cli.client_options import EXISTING_FILE, required_policy_option
from ledger_client.cli.console import (
    counted,
    format_second,
    json_option,
    note,
    print_fields,
    print_json,
)
from ledger_client.cli.render import local_time
from ledger_client.cli.sql_sources import ZIP_BEGINS
from ledger_client.plans.export import proof_path
from ledger_client.plans.export_proof import CheckedExport, check_export
from ledger_client.runtime.files import read_limited
from ledger_client.sql.parquet import MAGIC, ParquetLines, altered_columns
from ledger_core.event.canonical import LEAF_BYTES_MAX, Leaf, parse_leaf
from ledger_core.event.model import Event, Principal
from ledger_core.evidence.findings import Evidence, StatedExport
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.policy import POLICY_BYTES_MAX, Policy, VerifiedHead, parse_policy
from ledger_core.tlog.proof import PROOF_BYTES_MAX, check_proof, parse_proof
from ledger_core.tlog.text import printable_id

TARGETS_SHOWN = 4


@click.command("verify")
@click.argument("file", metavar="NAME.leaf.json|EVIDENCE.zip|EXPORT", type=EXISTING_FILE)
@click.argument("proof_file", metavar="[NAME.tlog-proof]", type=EXISTING_FILE, required=False)
@required_policy_option
@json_option
def command(file: Path, proof_file: Path | None, policy: Path, as_json: bool) -> None:
    """Verify an event and its proof, an evidence file, or an export and its proofs.

    EXPORT is a file of JSON lines, CSV or Parquet; its proofs are beside it, in EXPORT.proof.
    Exit code 0: verified; 1: not verified; 2: malformed. Needs only the files, and no server.
    """
    trusted = parse_policy(read_limited(policy, POLICY_BYTES_MAX))
    beside = proof_path(file)
    if proof_file is not None:
        _verify_leaf(file, proof_file, trusted, as_json=as_json)
    elif beside.exists() and not _begins_as_zip(file):
        # First: a text of an event in it may be what `is_zipfile` takes for the end of a .zip.
        _verify_export(file, beside, trusted, as_json=as_json)
    elif is_zipfile(file):
        _verify_evidence(file, trusted, as_json=as_json)
    else:
        raise click.UsageError(
            f"give a leaf and its proof, a .zip of evidence, or an export with {beside.name}"
            " beside it, which ledger export writes"
        )


def _begins_as_zip(file: Path) -> bool:
    with file.open("rb") as data:
        return data.read(len(ZIP_BEGINS)) == ZIP_BEGINS


def _verify_leaf(leaf_file: Path, proof_file: Path, policy: Policy, *, as_json: bool) -> None:
    proof = parse_proof(read_limited(proof_file, PROOF_BYTES_MAX))
    leaf_bytes = read_limited(leaf_file, LEAF_BYTES_MAX)
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
        print_json(evidence_verdict(evidence))
    elif evidence.is_verified:
        click.secho("verified", fg="green", bold=True)
        click.secho("proven", bold=True)
        print_fields(_proven(evidence), indent="  ")
        click.secho("as the file says", bold=True)
        print_fields(_said(evidence), indent="  ")
    note_findings(evidence)
    _refuse_faults(file, evidence.faults, events=evidence.events)


def _verify_export(file: Path, proofs: Path, policy: Policy, *, as_json: bool) -> None:
    """Raises: VerificationError when a row does not verify, or when there is none."""
    checked = _read_export(file, proofs, policy)
    if as_json:
        print_json(
            {
                "verified": bool(checked.rows) and not checked.faults,
                "faults": checked.faults,
                "rows": checked.rows,
                "meets_query": not checked.question.unread,
                "claimed": {
                    "query": checked.header.query,
                    "order": checked.header.order,
                    "tree_size": checked.tree_size,
                },
                **head_verdict(checked.head),
            }
        )
    elif checked.rows and not checked.faults:
        click.secho("verified", fg="green", bold=True)
        print_fields(
            {
                "proven": f"{counted(checked.rows, 'event')}, each in the log"
                + ("" if checked.question.unread else ", each meeting the query"),
                "log": checked.head.checkpoint.origin,
                **head_fields(checked.head),
            }
        )
        click.echo("as the file says, signed by nobody:")
        print_fields(
            {
                "query": checked.header.query or "every event",
                "searched": f"the first {checked.tree_size or 0:,} entries of the log",
                "complete": "no event was left out",
            }
        )
        if checked.question.unread:
            note(f"the query was not evaluated: {checked.question.unread}")
    _refuse_faults(file, checked.faults, events=checked.rows)


def check_export_file(file: Path, proofs: Path, policy: Policy) -> None:
    """Check all of an export by the proofs beside it. Raises: as `ledger verify`."""
    checked = _read_export(file, proofs, policy)
    _refuse_faults(file, checked.faults, events=checked.rows)


def _read_export(file: Path, proofs: Path, policy: Policy) -> CheckedExport:
    altered: list[str] = []
    with file.open("rb") as rows, proofs.open("rb") as lines:
        if rows.read(len(MAGIC)) == MAGIC:
            altered = altered_columns(file)
            checked = check_export(ParquetLines(file), lines, policy, is_table=True)
        else:
            rows.seek(0)
            checked = check_export(rows, lines, policy)
    return replace(checked, faults=(*checked.faults, *altered))


def _refuse_faults(file: Path, faults: Sequence[object], *, events: int) -> None:
    """Raises: VerificationError for a fault, which is printed, and for a file without events."""
    for fault in faults:
        note(f"not verified: {fault}")
    if faults:
        raise VerificationError(f"{file.name}: {counted(len(faults), 'fault')}")
    if not events:
        raise VerificationError(
            f"{file.name} has no events, so it proves nothing: not even that no event matches"
        )


def note_findings(evidence: Evidence) -> None:
    """Print what a reader of evidence should know though nothing is false."""
    for each in evidence.notes:
        note(f"note: {each}")


def evidence_verdict(evidence: Evidence) -> dict[str, object]:
    """The result of checking evidence, as JSON for programs."""
    head, existed, stated = evidence.head, evidence.existed, evidence.stated
    proof = stated and stated.head
    return {
        "verified": evidence.is_verified,
        "edition": evidence.edition,
        "faults": evidence.faults,
        "notes": evidence.notes,
        "query": evidence.query,
        "meets_query": not evidence.unevaluated,
        "events": evidence.events,
        "first_index": evidence.span and evidence.span[0],
        "last_index": evidence.span and evidence.span[1],
        "disclosed": evidence.disclosed,
        "first_existed_before": existed and _second(existed.first_unix_s),
        "last_existed_before": existed and _second(existed.last_unix_s),
        "existed_within_s": existed and existed.delay_s_max,
        "statement": stated
        and {
            "proven": proof is not None,
            "index": stated.index,
            "existed_before": proof and _second(proof.existed_before_unix_s),
            "token": stated.token,
            "time": stated.time,
            "received": stated.received,
            "case": stated.case,
            "reason": stated.reason,
            "tenant": stated.tenant,
            "missing": stated.missing or None,
            "total": stated.statement.total,
            "disclose": stated.statement.disclose,
        },
        "texts_proven": evidence.are_texts_proven,
        **head_verdict(head),
    }


def _proven(evidence: Evidence) -> dict[str, object]:
    """The facts that the signatures and hashes prove, as fields for people."""
    first, last = evidence.span or (0, 0)
    origin, stated = evidence.head.checkpoint.origin, evidence.stated
    fields: dict[str, object] = {
        "events": f"{counted(evidence.events, 'event')}, entries {first} to {last} of {origin},"
        " each byte as it was logged",
    }
    if not evidence.unevaluated:
        fields["question"] = f"each event meets {evidence.query or 'the query for every event'}"
    if evidence.disclosed:
        fields["disclosed"] = f"{counted(evidence.disclosed, 'private value')}, as committed to"
    fields |= head_fields(evidence.head) | {"existed": _events_existed(evidence)}
    if stated is not None and stated.head is not None:
        before = _second(stated.head.existed_before_unix_s)
        fields["export"] = (
            f"entry {stated.index} of the log records it"
            + (f"; it existed before {before}" if before else ""),
            *_stated(stated),
        )
    return fields


def _said(evidence: Evidence) -> dict[str, object]:
    """The claims that nothing in the file proves, as fields for people."""
    fields: dict[str, object] = {}
    stated = evidence.stated
    if evidence.unevaluated:
        query = evidence.query or "every event"
        fields["question"] = (query, f"not tested: {evidence.unevaluated}")
    if stated is None:
        fields["export"] = "by whom, when and why is not recorded in the first edition"
        total = evidence.events
    else:
        total = stated.statement.total
        if stated.head is None:
            fields["export"] = (f"not proven: {stated.missing}", *_stated(stated))
    size = evidence.head.checkpoint.tree_size
    fields["in all"] = (
        f"{counted(total, 'event')} found among the first {size:,} entries; no proof would show one"
        " that was left out"
    )
    if not evidence.are_texts_proven:
        fields["texts"] = "README.txt and index.html may say anything: read the events themselves"
    fields["times"] = "what an event says of itself, and the time at which the log received it"
    return fields


def _stated(stated: StatedExport) -> tuple[str, ...]:
    asked = f"asked by the token {stated.token} at {stated.time}, received {stated.received}"
    within = f"tenant {stated.tenant}" if stated.tenant else None
    case = f"case {stated.case}" if stated.case else "no case was given"
    reason = f"reason: {stated.reason}" if stated.reason else "no reason was given"
    return tuple(filter(None, (asked, within, case, reason)))


def _events_existed(evidence: Evidence) -> str:
    existed = evidence.existed
    if existed is None:
        return _existed(evidence.head) or "at no stated time: no witness of your policy says when"
    first, last = _second(existed.first_unix_s), _second(existed.last_unix_s)
    text = f"before {last}, as the policy's quorum states"
    if first != last:
        text = f"the first before {first}, the last before {last}, as the policy's quorum states"
    if existed.delay_s_max is None:
        return text
    # Witnesses state whole seconds.
    return f"{text}; at most {max(1, ceil(existed.delay_s_max)):,} s after the log received it"


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
    actor, targets = event.actor, [*map(_principal, event.targets or ())]
    if len(targets) > TARGETS_SHOWN:
        targets[TARGETS_SHOWN:] = [f"and {len(targets) - TARGETS_SHOWN} more"]
    return {
        "id": event.id or None,
        "time": event.time or None,
        "local": local_time(event.time or "", "machine") or None,
        "who": _principal(actor),
        "on behalf of": _principal(actor.on_behalf_of) if actor.on_behalf_of else None,
        "session": actor.session or None,
        "credential": actor.credential or None,
        "what": f"{event.action} ({event.outcome})",
        "to": ", ".join(targets) or None,
        "from": where or None,
        "reason": event.reason or None,
        "tenant": event.tenant or None,
    }


def _principal(principal: Principal) -> str:
    return " ".join(filter(None, (principal.type or "", printable_id(principal.id))))
