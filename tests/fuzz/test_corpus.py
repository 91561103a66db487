"""Each input of tests/corpus is parsed, or refused with MalformedError; findings stay here."""

import pytest

from tests.fuzz.corpus import FOLDER, read_corpus
from tests.fuzz.targets import TARGETS, parse_any


@pytest.mark.parametrize("name", TARGETS)
def test_each_input_is_of_the_format_or_malformed(name: str) -> None:
    parsed = [parse_any(name, data) for data in read_corpus(name)]
    assert any(parsed), "no input of the corpus is of the format: the fuzzer can't begin"


def test_each_file_of_the_corpus_has_a_target() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == TARGETS.keys()


def test_a_parser_that_gives_other_bytes_back_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.targets.format_size_answer", lambda size: f"{size + 1}\n")
    with pytest.raises(AssertionError):
        parse_any("witness-size", b"7\n")
