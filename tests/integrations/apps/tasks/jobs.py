"""The tasks; a worker imports them by name."""

from typing import Any

from django_tasks import task

from ledger_client import audited, restored


@audited("payment.refunded", target=lambda payment: ("payment", payment))
def pay_back(payment: str) -> None:
    """What is recorded."""


@task()
def refund(payment: str, scope: dict[str, Any]) -> None:
    """Work in the audit context of whoever sent the task."""
    with restored(scope):
        pay_back(payment)
