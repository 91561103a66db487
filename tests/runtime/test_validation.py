"""What is wrong with a value of a file is said in the words of that file."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from ledger.runtime.validation import explain_invalid


class Table(msgspec.Struct, forbid_unknown_fields=True):
    type: Annotated[Literal["http", "file"], "What it sends to."]
    events: Annotated[int, Meta(ge=1)] = 1
    to: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"type": "htp"}, "type: want one of http, file, got 'htp'"),
        ({"type": "http", "tpe": 1}, "there is no key 'tpe'"),
        ({}, "the key 'type' is missing"),
        ({"type": "file", "events": "5"}, "events: expected int, got str"),
        ({"type": "file", "events": 0}, "events: expected int >= 1"),
        ({"type": "file", "to": [1]}, "to[0]: expected str, got int"),
        (1, "expected object, got int"),
    ],
)
def test_the_key_comes_first(table: Any, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(table, Table)
    assert explain_invalid(caught.value, Table) == said
