"""`ledger erase DIR`: destroy the private values of one subject in a folder on this machine."""

import secrets
from contextlib import closing
from pathlib import Path

from ledger.cli.folders import LEDGER, check_kind
from ledger.object_storage.open_log import open_log
from ledger.runtime.operator_name import operator_name
from ledger.service.data_dir import DirectoryPaths, open_tokens, read_optional
from ledger.service.open_parts import open_rules
from ledger.service.secret_stores import open_private
from ledger.store.erasable_values import KEY_BYTES
from ledger_client import new_event_id
from ledger_client.cli.app import NotFoundError
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import decode_event_object
from ledger_core.event.commitments import erasure_event
from ledger_core.event.times import format_time


def erase_here(directory: Path, subject: str, reason: str) -> tuple[int, str]:
    """Erase, and put the event into the outbox. Returns the number of values and the event's id."""
    check_kind(directory, (LEDGER,), "ledger erase")
    paths = DirectoryPaths(directory)
    access = open_tokens(paths)
    try:
        store = open_private(paths, make_key=lambda: secrets.token_bytes(KEY_BYTES))
        try:
            rules = open_rules(paths, read_optional(paths.secrets))
            names = (rules.mask_id(subject), subject)
            values, event_id = store.count(*names), new_event_id()
            if not values:
                raise NotFoundError(f"no private value is of {subject!r}: nothing was changed")
            event = erasure_event(
                subject=subject,
                reason=reason,
                actor={"type": "operator", "id": operator_name()},
                values=values,
                tree_size=_tree_size(paths),
                event_id=event_id,
                time=format_time(unix_us()),
            )
            # Checked first: an event that can't be logged must stop the erasure.
            _, event_json = decode_event_object(rules.mask(event))
            erasure = store.erase(*names, event_json=event_json)
            access.enqueue(event_json)
            store.finish(erasure)
        finally:
            store.close()
    finally:
        access.close()
    return values, event_id


def _tree_size(paths: DirectoryPaths) -> int:
    with closing(open_log(paths.log)) as log:
        return log.head().tree_size
