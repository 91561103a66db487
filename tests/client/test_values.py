"""A list of values that is cut short or does not add up is refused."""

import pytest

from ledger_client.plans.question import ask_query
from ledger_client.plans.values import ValueList
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

ONE = b'{"value":"u_1","count":2}'
TWO = b'{"value":"u_2","count":1}'
END = b'{"trailer":{"values":2,"total":3,"exact":true,"tree_size":9}}'


def read(*lines: bytes) -> ValueList:
    values = ValueList("actor", ask_query("outcome:success", now_unix_us=0))
    for line in lines:
        values.read(line)
    return values


def test_a_whole_list_is_read() -> None:
    end = read(ONE, TWO, END).end()
    assert (end.values, end.total, end.exact) == (2, 3, True)


def test_a_list_without_its_trailer_was_cut_short() -> None:
    with pytest.raises(UnavailableError, match="cut short"):
        read(ONE, TWO).end()


@pytest.mark.parametrize("lines", [(ONE, END), (ONE, TWO, TWO.replace(b"u_2", b"u_3"), END)])
def test_a_trailer_counts_the_values(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(VerificationError, match="its trailer says 2"):
        read(*lines)


@pytest.mark.parametrize(
    "end", [END.replace(b'total":3', b'total":10'), END.replace(b'total":3', b'total":1')]
)
def test_no_value_has_more_events_than_there_are(end: bytes) -> None:
    with pytest.raises(VerificationError, match="more events"):
        read(ONE, TWO, end)


@pytest.mark.parametrize(
    "lines",
    [
        (ONE, ONE),
        (b'{"value":"u_1","count":0}',),
        (b'{"value":"u_1"}',),
        (b"u_1",),
        (ONE, TWO, END, ONE),
        (b'{"trailer":{"values":2}}',),
    ],
)
def test_a_line_of_another_form_is_refused(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(MalformedError):
        read(*lines)
