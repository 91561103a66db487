"""Names of followers and of saved queries, and other texts that a pattern bounds."""

import msgspec
import pytest

from ledger.follow.position import is_name
from ledger.follow.tables import check_name
from ledger.service.settings import Settings
from ledger_core.event.model import whole_text
from ledger_core.query.saved import AskSave
from ledger_core.tlog.errors import MalformedError


def test_a_name_with_a_newline_at_its_end_is_no_name_of_a_follower() -> None:
    check_name("siem")
    assert is_name("siem")
    assert not is_name("siem\n")
    with pytest.raises(MalformedError, match="a name has up to 63"):
        check_name("siem\n")


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        (AskSave, {"name": "night", "query": "action:login"}),
        (Settings, {"secrets": "mask"}),
    ],
)
def test_a_pattern_refuses_a_newline_at_the_end(kind: type, good: dict[str, str]) -> None:
    msgspec.convert(good, kind)
    first = next(iter(good))
    with pytest.raises(msgspec.ValidationError, match=first):
        msgspec.convert(good | {first: good[first] + "\n"}, kind)


def test_the_schema_of_a_whole_text_has_no_python_syntax() -> None:
    assert whole_text("a|b").extra_json_schema == {"pattern": "^(?:a|b)$"}
