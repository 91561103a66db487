"""The steps of `ledger demo`: the main job on a temporary ledger, from appending to a fork.

The steps use only what a user would: commands, client, and the service in its own process. Only
the tampering writes to the store directly, as an intruder with access to the disk would.
"""

import shutil
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import click

from ledger.demo.child_service import Service, make_ledger, require_witnesses, witnesses
from ledger.demo.data import INTRUDER, QUESTIONS, bad_week, week_before
from ledger.demo.tampering import alter_entry
from ledger.service.data_dir import DirectoryPaths
from ledger.store.fsck import check_store
from ledger.store.log import LogStore
from ledger_client import Entry, LedgerClient, Receipt
from ledger_client.cli.console import counted, print_fields
from ledger_client.cli.import_ import import_file
from ledger_client.cli.verify import described
from ledger_client.collect.importers import load_format
from ledger_client.retry import RetryPolicy
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.proof import check_proof, format_proof, parse_proof

ORIGIN = "demo.example/audit"
SEED = 7
FLAGS = ("--log-level", "error", "--publish-interval-s", "0.2", "--workers", "0")
FORK_WAIT_S = 20.0
FIRST = {"actor": {"id": "demo"}, "action": "demo.started", "outcome": "success"}


def run_demo(scratch: Path, *, once: bool, file: Path | None, format_: str, listen: str) -> None:
    directory = scratch / "audit"
    step = _Steps()
    step("A ledger, a token for the application, and three witnesses of whom two must cosign")
    token = make_ledger(directory, origin=ORIGIN)
    paths = DirectoryPaths(directory)
    with witnesses(scratch, 3, log_policy=paths.policy) as running:
        require_witnesses(paths.policy, running, threshold=2)
        with Service(directory, listen=listen, flags=FLAGS) as service:
            for witness in running:
                click.echo(f"   witness {witness.name} on {witness.url}")
            click.echo(f"   serving {directory} on {service.url}")
            with LedgerClient(
                service.url, token, policy=paths.policy, state=scratch / "state"
            ) as ledger:
                ledger.append(FIRST)
                backup = _copied(paths, scratch / "backup")
                receipts = _append_week(step, ledger)
                if file is not None:
                    step(f"Your own events, from {file}")
                    import_file(ledger, file, load_format(format_), quiet=True).print()
                export = _prove_and_verify(step, ledger, paths, scratch, receipts)
                _tamper(step, paths, scratch, token, export)
                _fork(step, backup, token)
                _ask(step, ledger, has_only_demo_events=file is None)
            if not once:
                with suppress(KeyboardInterrupt):
                    _serve_on(service, token, paths, export)


def _serve_on(service: Service, token: str, paths: DirectoryPaths, export: Entry) -> None:
    click.secho("\nThe service keeps running. Ctrl-C stops and deletes it.", bold=True)
    click.echo(f"   address  {service.url}\n   token    {token}\n   policy   {paths.policy}\n")
    click.echo(
        f"   export LEDGER_URL={service.url} LEDGER_TOKEN={token} LEDGER_POLICY={paths.policy}"
        f"\n   ledger show {export.index}"
        f"\n   ledger query {QUESTIONS[2].query}"
    )
    service.wait()


class _Steps:
    """Prints the numbered headings."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, what: str) -> None:
        self._number += 1
        click.secho(f"\n{self._number}. {what}", bold=True)


def _append_week(step: _Steps, ledger: LedgerClient) -> list[Receipt]:
    week = list(bad_week(start_unix_us=week_before(unix_us()), seed=SEED))
    step(f"A small company's bad week: {len(week)} events, each verified when it is acknowledged")
    start = time.perf_counter()
    receipts: list[Receipt] = []
    for first in range(0, len(week), 500):
        for result in ledger.append_many(week[first : first + 500]):
            if not isinstance(result, Receipt):
                raise VerificationError(f"an event of the demo was refused: {result.problem}")
            receipts.append(result)
    elapsed = time.perf_counter() - start
    latest = ledger.latest
    if latest is None:
        raise VerificationError("the events were appended, but no head was accepted")
    outcomes = Counter(event["outcome"] for event in week)
    click.echo(f"   {', '.join(f'{count} {outcome}' for outcome, count in outcomes.most_common())}")
    head = latest.checkpoint
    click.echo(
        f"   {len(week) / elapsed:,.0f} events a second, durable and proved; "
        f"tree of size {head.tree_size}, root {head.root_hash.hex()[:16]}…"
    )
    return receipts


def _prove_and_verify(
    step: _Steps,
    ledger: LedgerClient,
    paths: DirectoryPaths,
    scratch: Path,
    receipts: list[Receipt],
) -> Entry:
    step("The intruder's export of customer records: proved, then verified offline")
    index = next(
        receipt.index
        for receipt in receipts
        if b'"customer.exported"' in receipt.leaf
        and f'"{INTRUDER.actor_id}"'.encode() in receipt.leaf
    )
    entry = ledger.event(index)
    if entry.proof is None:
        raise VerificationError("the ledger gave no proof")
    leaf_file, proof_file = scratch / "export.leaf.json", scratch / "export.tlog-proof"
    leaf_file.write_bytes(entry.leaf)
    proof_file.write_text(format_proof(entry.proof), encoding="utf-8")
    proof = parse_proof(proof_file.read_bytes())
    leaf = leaf_file.read_bytes()
    head = check_proof(
        proof, leaf_hash=leaf_hash(leaf), policy=parse_policy(paths.policy.read_bytes())
    )
    print_fields(described(parse_leaf(leaf), proof.leaf_index, head), indent="   ")
    click.echo(f"   {len(proof.hashes)} hashes and {len(leaf)} bytes were all it took")
    return entry


def _ask(step: _Steps, ledger: LedgerClient, *, has_only_demo_events: bool) -> None:
    step("What a responder asks next; each event of the answers is verified")
    for question in QUESTIONS:
        started_s = time.perf_counter()
        found = sum(1 for _ in ledger.query(question.query))
        elapsed_ms = (time.perf_counter() - started_s) * 1000
        if has_only_demo_events and found != question.finds:
            raise VerificationError(
                f"{question.query}: got {found} events, the demo has {question.finds}"
            )
        click.echo(f"   {question.asks}")
        click.secho(
            f"     {question.query}  →  {counted(found, 'event')} in {elapsed_ms:.0f} ms", dim=True
        )


def _tamper(step: _Steps, paths: DirectoryPaths, scratch: Path, token: str, export: Entry) -> None:
    step("An intruder with access to the disk changes one byte of that entry, in a copy")
    copy = _copied(paths, scratch / "tampered")
    before, after = b'"' + INTRUDER.actor_id.encode() + b'"', b'"u_118"'
    alter_entry(copy.log, export.index, before=before, after=after)
    click.echo(f"   entry {export.index} now blames u_118 instead of {INTRUDER.actor_id}")
    policy = parse_policy(paths.policy.read_bytes())
    tampered = LogStore.open(copy.log)
    try:
        check_store(tampered, log_keys=[log.verifier for log in policy.logs])
    except VerificationError as error:
        _caught("ledger fsck", error)
    else:
        raise VerificationError("fsck did not see the change")
    finally:
        tampered.close()
    with (
        Service(copy.root, listen="127.0.0.1:0", flags=FLAGS) as service,
        LedgerClient(service.url, token, policy=paths.policy) as ledger,
    ):
        try:
            ledger.event(export.index)
        except VerificationError as error:
            _caught("the client ", error)
        else:
            raise VerificationError("the client did not see the change")


def _fork(step: _Steps, backup: DirectoryPaths, token: str) -> None:
    step("An intruder with the signing key restores an old copy and signs a second history")
    with (
        Service(backup.root, listen="127.0.0.1:0", stderr=subprocess.DEVNULL) as service,
        LedgerClient(
            service.url, token, policy=backup.policy, retry=RetryPolicy(attempts_max=1)
        ) as ledger,
    ):
        # A witness may have shown the longer log already; then the old copy takes no events.
        with suppress(UnavailableError):
            ledger.append_many([FIRST] * 3, verify=False)
        deadline_s = time.monotonic() + FORK_WAIT_S
        while not (found := list(backup.evidence.glob("*Z"))):
            if time.monotonic() > deadline_s:
                raise VerificationError("no witness objected to another history")
            time.sleep(0.05)
    evidence = found[0]
    click.secho("   the witnesses caught it: ", fg="green", nl=False)
    click.echo((evidence / "reason").read_text(encoding="utf-8").strip())
    kept = ", ".join(sorted(file.name for file in evidence.iterdir()))
    click.echo(f"   nothing was published; kept as evidence: {kept}")


def _copied(paths: DirectoryPaths, to: Path) -> DirectoryPaths:
    """Copy a ledger's folder while it is served."""
    copy = DirectoryPaths(to)
    shutil.copytree(paths.root, to, ignore=shutil.ignore_patterns("log", "*.lock"))
    store = LogStore.open(paths.log)
    with store.environment.read() as snapshot:
        store.environment.copy_snapshot(snapshot, copy.log)
    store.close()
    return copy


def _caught(who: str, error: VerificationError) -> None:
    click.secho(f"   {who} caught it: ", fg="green", nl=False)
    click.echo(str(error))
