"""Marks values of events that the law may require to be erased."""

from typing import Any

from ledger_core.event.commitments import Private


def private(value: Any, subject: str) -> Any:
    """A value of an event that can be erased later: the log gets a commitment to it.

        ledger.append({…, "context": {"patient": private({"name": name}, subject="u_12345")}})

    `value` is a JSON value of up to 16 KiB, anywhere in `context` and `changes`, or a string in
    `reason`, `source.user_agent` and the names of actor and targets. `subject` names the person
    whose value it is, by an id: it is logged when the value is erased. All private values of one
    subject are erased together.
    """
    return Private(value, subject)
