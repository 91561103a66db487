"""Words, ids that have none, and families of user agents."""

import pytest

from ledger_core.query.user_agents import family_of
from ledger_core.query.words import phrase_of, words_of, words_of_id


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Access-Review, x_y", ["access", "review", "x", "y"]),
        ("STRASSE straße ﬁn", ["strasse", "strasse", "fin"]),
        ("東京都 iPhone用", ["東京", "京都", "都", "iphone", "用"]),
        ("カタカナ・ガ", ["カタ", "タカ", "カナ", "ナ", "ガ"]),
        ("ﾃｽﾄ", ["テス", "スト", "ト"]),
        ("ข้อมูล", ["ข้", "้อ", "อม", "มู", "ูล", "ล"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("한국어 로그", ["한국어", "로그"]),
        ("❤️ ok", ["ok"]),
        ("", []),
    ],
)
def test_the_words_of_a_text(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("東京", "大東京都庁"),
        ("京", "東京"),
        ("京", "京都"),
        ("มูล", "ฐานข้อมูลลูกค้า"),
        ("都 report", "東京都 Report"),
        ("legal hold", "the Legal-Hold of"),
    ],
)
def test_any_part_of_a_run_without_blanks_is_found(text: str, inside: str) -> None:
    words, is_prefix = phrase_of(text)
    found = words_of(inside)
    starts = range(len(found) - len(words) + 1)
    parts = [found[start : start + len(words)] for start in starts]
    assert any(
        part[:-1] == list(words[:-1])
        and (part[-1].startswith(words[-1]) if is_prefix else part[-1] == words[-1])
        for part in parts
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("u_5", []),
        ("r_0000123", []),
        ("INV-17", []),
        ("123456789012", []),
        ("0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50", []),
        ("s_9f8e7d6c5b4a3210", []),
        ("alice@example.com", ["alice", "example", "com"]),
        (
            "arn:aws:iam::123456789012:user/bob",
            ["arn", "aws", "iam", "123456789012", "user", "bob"],
        ),
        ("東京", ["東京", "京"]),
    ],
)
def test_ids_that_count_or_are_random_have_no_words(text: str, words: list[str]) -> None:
    assert words_of_id(text) == words


@pytest.mark.parametrize(
    ("user_agent", "family"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "firefox"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/126.0 Safari/537.36 Edg/126.0", "edge"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/126.0 Safari/537.36", "chrome"),
        (
            "Mozilla/5.0 (iPhone) AppleWebKit/605.1 Version/17.5 Mobile/15E148 Safari/604.1",
            "safari",
        ),
        ("Mozilla/5.0 (compatible; new thing)", "mozilla"),
        ("curl/8.5.0", "curl"),
        ("aws-cli/2.15 md/Botocore", "aws-cli"),
        ("kubectl/v1.30.0 (linux/amd64)", "kubectl"),
        ("  Go-http-client/2.0", "go-http-client"),
        ("(nothing)", ""),
        ("", ""),
    ],
)
def test_the_family_of_a_user_agent(user_agent: str, family: str) -> None:
    assert family_of(user_agent) == family
