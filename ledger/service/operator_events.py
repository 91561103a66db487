"""Events about what an operator did on the command line; the running service appends them.

They wait in the outbox of the folder (`ledger.service.outbox`), also while no service runs.
"""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import msgspec

from ledger.runtime.operator_name import operator_name
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger_client.runtime.clock import unix_us as now_unix_us
from ledger_core.event.ids import UUID7_RANDOM_BYTES, format_uuid7
from ledger_core.event.times import format_time

Target = tuple[str, str]
"""The type and the id of what an act changed."""


def operator_event(
    action: str,
    unix_us: int,
    *,
    targets: Sequence[Target] = (),
    context: Mapping[str, Any] | None = None,
    tenant: str | None = None,
    outcome: str = "success",
    random: bytes | None = None,
) -> bytes:
    """The event, as JSON, of an act of the user who runs this command.

    `unix_us`: its time, in microseconds since 1970. `random`: 10 bytes of its id, for an event that
    must be the same when the act is repeated.
    """
    random = secrets.token_bytes(UUID7_RANDOM_BYTES) if random is None else random
    event: dict[str, Any] = {
        "id": format_uuid7(unix_ms=unix_us // 1000, random=random),
        "time": format_time(unix_us),
        "actor": {"type": "operator", "id": operator_name()},
        "action": action,
        "outcome": outcome,
    }
    if targets:
        event["targets"] = [{"type": kind, "id": name} for kind, name in targets]
    if context:
        event["context"] = dict(context)
    if tenant is not None:
        event["tenant"] = tenant
    return msgspec.json.encode(event)


def record_act(
    paths: DirectoryPaths,
    action: str,
    *,
    targets: Sequence[Target] = (),
    context: Mapping[str, Any] | None = None,
    outcome: str = "success",
) -> None:
    """Put the event of an act into the outbox of a ledger. Raises: as `open_tokens`."""
    event = operator_event(action, now_unix_us(), targets=targets, context=context, outcome=outcome)
    with closing(open_tokens(paths)) as access:
        access.enqueue(event)
