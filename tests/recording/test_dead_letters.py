"""What a dead letter keeps, whatever a service names as the field that it refused."""

import pytest

from ledger_client.recording.dead_letters import redact
from ledger_core.api import Problem

EVENT = {"action": "a.b", "context": {"a": "x"}, "targets": [{"id": "secret"}, {"id": "t_2"}]}


@pytest.mark.parametrize(
    "field",
    [
        'targets[0]["\\x"]',
        'targets["\\ud800"]',
        "targets.\N{SUPERSCRIPT TWO}",
        f"targets[{'9' * 5000}]",
        "targets",
        "targets[0].id.more",
    ],
)
def test_a_field_of_any_form_takes_the_refused_value_away(field: str) -> None:
    kept = redact(EVENT, Problem(type="#secret", detail="", field=field))
    assert "secret" not in str(kept)
    assert kept["action"] == "a.b"


def test_what_a_proxy_finds_too_large_is_kept_whole() -> None:
    # As `decode_problem` reads a page that is none of the ledger's.
    assert redact(EVENT, Problem(title="status 413", status=413)) == EVENT
    assert redact(EVENT, Problem(title="status 403", status=403)) != EVENT
