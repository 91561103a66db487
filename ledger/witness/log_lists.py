"""Reads lists of logs, from a file or an address, and adds their logs to a witness."""

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import structlog

from ledger.log.public_policy import public_url
from ledger.log.witness_client import make_session
from ledger.runtime.network_errors import explain_network_error
from ledger.witness.store import Added, HeadStore
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.log_list import LIST_BYTES_MAX, parse_log_list
from ledger_core.tlog.text import from_wire

TIMEOUT_S: Final = 30.0
SCHEMES: Final = ("http", "https")
SHOWN_MAX: Final = 10
"""Logs of a list that a log line names; it counts all of them."""

_log = structlog.get_logger("ledger.witness.log_lists")


async def add_logs(store: HeadStore, source: str) -> Added:
    """Add the logs of a list that are new. `source`: a file, or an address of http or https.

    Raises: UnavailableError when it can't be read; MalformedError for what is no list.
    """
    with from_wire():
        is_address = urlsplit(source).scheme in SCHEMES
    data = await (_fetch(source) if is_address else asyncio.to_thread(_read, Path(source)))
    # Ten thousand keys take most of a second, in which logs ask for cosignatures.
    listed = await asyncio.to_thread(parse_log_list, data)
    added = await asyncio.to_thread(store.add_listed, listed.logs)
    return added._replace(left_out=(*listed.left_out, *added.left_out))


async def follow_list(store: HeadStore, source: str, *, interval_s: float) -> None:
    """Add new logs of a list now and at each interval, until cancelled.

    A list that can't be read, and logs that are left out, are said once while nothing else changes.
    """
    said: object = None
    while True:
        try:
            added = await add_logs(store, source)
        except (UnavailableError, MalformedError) as error:
            if said != str(error):
                _log.warning("log_list_failed", reason=str(error))
            said = str(error)
        else:
            if added.new or added.limits_changed:
                _log.info(
                    "log_list_read",
                    count=len(added.new),
                    new=added.new[:SHOWN_MAX],
                    limits_changed=len(added.limits_changed),
                )
            if added.left_out and said != added.left_out:
                left_out = added.left_out
                _log.warning("listed_logs_left_out", count=len(left_out), logs=left_out[:SHOWN_MAX])
            said = added.left_out
        await asyncio.sleep(interval_s)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LIST_BYTES_MAX + 1)
    except OSError as error:
        raise UnavailableError(f"the log list {path}: {error.strerror}") from error


async def _fetch(address: str) -> bytes:
    """The bytes at an address; a redirect is an error, so that no other host is asked."""
    shown = public_url(address)
    try:
        async with (
            make_session(TIMEOUT_S) as session,
            session.get(address, allow_redirects=False) as answer,
        ):
            if answer.status != HTTPStatus.OK:
                raise UnavailableError(f"the log list {shown}: answered {answer.status}")
            data = bytearray()
            async for piece in answer.content.iter_any():
                data += piece
                if len(data) > LIST_BYTES_MAX:
                    break
            return bytes(data)
    except TimeoutError:
        raise UnavailableError(f"the log list {shown}: no answer in {TIMEOUT_S:g} s") from None
    except aiohttp.ClientConnectorError as error:
        said = explain_network_error(error)
        raise UnavailableError(f"the log list {shown}: no connection: {said}") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # The text of some of them has the address, with its credentials.
        raise UnavailableError(f"the log list {shown}: {type(error).__name__}") from error
