"""Marking what the law may require to be erased."""

from typing import Any

from ledger_core.event.commitments import Private


def private(value: Any, subject: str) -> Any:
    """A value of an event that can be erased later: the log gets a commitment to it.

        ledger.append({…, "context": {"patient": private({"name": name}, subject="u_12345")}})

    `value` is any JSON value of up to 16 KiB; it may stand in `context` and `changes`, and as a
    text in `reason`, `source.user_agent` and the names of actor and targets. `subject` is whose it
    is: an id, for it will be in the log when it is erased, and everything that is private of one
    subject is erased at once.
    """
    return Private(value, subject)
