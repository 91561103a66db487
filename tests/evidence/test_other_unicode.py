"""A reader whose Python has other Unicode tables than the server's calls nothing wrong that is not.

The other Python is simulated: it has the tables of Unicode 3.2, and the characters that came later
are no letters to it and are not folded. The log and its index are made with the tables of this
Python.
"""

import random
import unicodedata
from functools import lru_cache
from pathlib import Path

import pytest

from ledger.query.segment_builder import OtherAnalysisError, check_index, reindex
from ledger.store.index import index_store
from ledger.store.index.index_store import IndexStore
from ledger.store.log import LogStore
from ledger_client.plans.question import ask_query
from ledger_core.evidence.verifier import check_evidence
from ledger_core.query import predicate, words
from tests.client.auditing import audit
from tests.client.hosts import Host, entry
from tests.evidence.bundles import Maker
from tests.query.events import make_entries, make_log, random_event

ACTOR = "GRO\u1e9e \ua722nna"
"""Letters of Unicode 5.1: this Python folds them to `gross` and to a letter of a word."""


def use_other_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process is from here on: a Python with the tables of Unicode 3.2."""
    old = unicodedata.ucd_3_2_0

    def fold(text: str) -> str:
        known = "".join(c if old.category(c) != "Cn" else "\ufffe" for c in text)
        return old.normalize("NFKC", known).casefold()

    monkeypatch.setattr(words, "_fold", fold)
    # What was found with the tables of this Python is not known to the other one.
    for module, name in (
        (words, "_cached_phrase_of"),
        (predicate, "_words_in"),
        (predicate, "_words_in_ids"),
    ):
        cached = getattr(module, name)
        monkeypatch.setattr(module, name, lru_cache(cached.__wrapped__))


@pytest.fixture
def maker() -> Maker:
    leaves = [entry(number, actor=ACTOR if number % 50 == 3 else "u_1") for number in range(300)]
    return Maker(leaves=leaves)


def test_the_simulated_tables_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    assert words.words_of(ACTOR) == ["gross", "\ua723nna"]
    use_other_tables(monkeypatch)
    assert words.words_of(ACTOR) == ["gro", "nna"]


def test_evidence_is_not_called_false(
    maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.asked = {"query": "gross"}
    path = maker.write(tmp_path / "evidence.zip", range(3, 300, 50))
    same = check_evidence(path, maker.policy)
    assert (same.faults, same.unevaluated) == ((), "")
    use_other_tables(monkeypatch)
    other = check_evidence(path, maker.policy)
    assert other.faults == ()
    assert "6 events have characters newer than Unicode 3.2" in other.unevaluated


def test_an_answer_is_not_called_false(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = maker.leaves[3]
    use_other_tables(monkeypatch)
    question = ask_query("gross", now_unix_us=0)
    assert not question.matches(3, leaf)
    question.check_event(3, leaf)
    question.check_query(ask_query("gross", now_unix_us=0).text)


def test_a_monitor_finds_each_entry_in_order(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    use_other_tables(monkeypatch)
    auditor = audit(Host(maker.log), policy=maker.log.policy)
    auditor.run_round()
    assert auditor.checked == 300


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_sealed_index_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_strict: bool
) -> None:
    """It was not checked, and the error says so: it is no VerificationError."""
    rng = random.Random(15)
    events = [random_event(rng, number) for number in range(256)]
    events[7]["actor"]["name"] = ACTOR
    make_log(tmp_path / "log", make_entries(events)).close()
    log = LogStore.open(tmp_path / "log")
    reindex(log, tmp_path / "index", segment_entries=256, processes=1)

    def check() -> int:
        index = IndexStore(tmp_path / "index", segment_entries=256)
        return check_index(log, index, is_strict=is_strict)

    assert check() == 1
    use_other_tables(monkeypatch)
    monkeypatch.setattr(index_store, "ANALYSIS", "5 unicode 3.2.0")
    with pytest.raises(OtherAnalysisError, match="it was not checked"):
        check()
    log.close()
