"""The heads that a log keeps: each is signed by it, and the published head extends it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger_client.messages import Request, Response
from ledger_client.plans.heads import Heads
from ledger_client.plans.kept_heads import read_kept_heads
from ledger_client.results import KeptHead
from ledger_core.api import KeptCheckpoint, KeptCheckpoints
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.trust import TrustedLog
from tests.client.hosts import W1, W2, Host, cosigned, entries, quorum_policy
from tests.client.trees import SmallLog
from tests.conftest import TESTS_DIR

LOG = SmallLog(entries(40))
FORK = SmallLog([*entries(20), *entries(20, actor="u_2")])
POLICY = quorum_policy(LOG)
SIZES = (0, 3, 20, 31, 40)


def note(size: int, *, log: SmallLog = LOG) -> str:
    return cosigned(log.note(size), (W1, 1000 + size), (W2, 1002 + size))


def answer(start: int = 0, log: SmallLog = LOG) -> dict[str, Any]:
    return {
        "published": note(40),
        "checkpoints": [
            {
                "checkpoint": note(size, log=log),
                "hashes": [format_base64(each) for each in LOG.consistency(size, 40).hashes],
            }
            for size in SIZES
            if size >= start
        ],
    }


def read(served: dict[str, Any], start: int = 0, end: int | None = None) -> list[KeptHead]:
    def lie(request: Request, response: Response) -> Response:
        if request.target.startswith("/v1/checkpoints?"):
            return Response(status=200, body=msgspec.json.encode(served))
        return response

    host = Host(LOG)
    host.lie = lie
    found, following = host.run(read_kept_heads(start, end=end, heads=Heads(TrustedLog(POLICY))))
    assert following == served.get("next")
    return found


def test_kept_heads_are_verified_and_say_when_their_entries_existed() -> None:
    found = read(answer())
    assert [each.checkpoint.tree_size for each in found] == list(SIZES)
    assert [each.head and each.head.existed_before_unix_s for each in found] == [
        1002 + size for size in SIZES
    ]
    assert [each.checkpoint.tree_size for each in read(answer(), 0, 31)] == [0, 3, 20]


@pytest.mark.parametrize("following", [10, 20, 40])
def test_heads_behind_the_end_do_not_make_the_list_begin_again(following: int) -> None:
    """All that is shown lies behind the end: were the next page this one again, none would end."""
    with pytest.raises(VerificationError, match="the next kept head has size"):
        read({**answer(10), "next": following}, 10, 15)


def test_a_head_without_the_quorum_is_shown_as_what_it_is() -> None:
    served = answer()
    served["checkpoints"][1]["checkpoint"] = cosigned(LOG.note(3), (W1, 1))
    found = read(served)
    assert found[1].head is None
    assert "quorum is not met" in str(found[1].missing)


def of_a_fork(served: dict[str, Any]) -> None:
    served.update(checkpoints=answer(0, FORK)["checkpoints"])


def unsigned(served: dict[str, Any]) -> None:
    stranger = SmallLog(LOG.leaves, key="another")
    served["checkpoints"][2]["checkpoint"] = stranger.note(20)


def without_a_proof(served: dict[str, Any]) -> None:
    served["checkpoints"][2]["hashes"] = []


def not_ascending(served: dict[str, Any]) -> None:
    served["checkpoints"].reverse()


def twice(served: dict[str, Any]) -> None:
    served["checkpoints"].insert(1, served["checkpoints"][1])


def without_an_end(served: dict[str, Any]) -> None:
    served["next"] = 40


def garbled(served: dict[str, Any]) -> None:
    served["checkpoints"][0]["checkpoint"] = "no note"


def published_older(served: dict[str, Any]) -> None:
    served["published"] = note(31)


def published_of_a_fork(served: dict[str, Any]) -> None:
    served["published"] = note(40, log=FORK)


def published_unsigned(served: dict[str, Any]) -> None:
    served["published"] = SmallLog(LOG.leaves, key="another").note(40)


def of_another_size(served: dict[str, Any]) -> None:
    served["checkpoints"][2]["checkpoint"] = note(21)


def with_another_proof(served: dict[str, Any]) -> None:
    served["checkpoints"][2]["hashes"] = served["checkpoints"][3]["hashes"]


LIES: dict[str, list[Callable[[dict[str, Any]], None]]] = {
    "checkpoints": [of_a_fork, not_ascending, twice],
    "checkpoint": [unsigned, garbled, of_another_size],
    "hashes": [without_a_proof, with_another_proof],
    "published": [published_older, published_of_a_fork, published_unsigned],
    "next": [without_an_end],
}


@pytest.mark.parametrize("change", [change for lies in LIES.values() for change in lies])
def test_a_false_list_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    served = answer()
    change(served)
    with pytest.raises((VerificationError, MalformedError)):
        read(served)


def test_the_table_has_every_member_of_the_answer() -> None:
    members = {*KeptCheckpoints.__struct_fields__, *KeptCheckpoint.__struct_fields__}
    assert set(LIES) == members


def test_heads_that_are_left_out_can_not_be_noticed_and_the_docs_say_so() -> None:
    served = answer()
    del served["checkpoints"][1:]
    assert [each.checkpoint.tree_size for each in read({**served, "next": 10**6})] == [0]
    text = (Path(TESTS_DIR).parent / "docs/security-model.md").read_text()
    assert "kept heads that are left out, as by a large `next`" in text


def test_a_page_without_a_head_has_no_next_one() -> None:
    with pytest.raises(VerificationError, match="no kept head, and the next one has size 7"):
        read({"published": note(40), "checkpoints": [], "next": 7}, 7)


def test_a_head_smaller_than_asked_for_is_refused() -> None:
    with pytest.raises(VerificationError, match="from size 5 on: got one of size 3"):
        read(answer(3), 5)
