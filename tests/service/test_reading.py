"""Reading: events, proofs and tiles, and how long each may be kept."""

import base64
import gzip
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ledger.service.http.responses import prefers_json
from ledger.store.log import LogStore
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.checkpoint import Checkpoint, parse_checkpoint
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.note import parse_note
from ledger_core.tlog.proof import check_proof, parse_proof
from ledger_core.tlog.tile import decode_bundle
from ledger_core.tlog.tree import Frontier
from ledger_core.tlog.verify import check_consistency, check_inclusion
from tests.service.check_log import CheckedLog, check_ledger
from tests.service.serving import Ledger, event, serving_new

COUNT = 600
FOREVER = "max-age=31536000, immutable"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger with two full tiles and a partial one, published at several sizes."""
    with serving_new(tmp_path_factory.mktemp("full")) as ledger:
        for _ in range(3):
            answer = ledger.append(*(event() for _ in range(COUNT // 3)), query="?wait=witnessed")
            assert answer.json()["witnessed"] is True
        yield ledger


@pytest.fixture(scope="module")
def log(full: Ledger) -> CheckedLog:
    """The log of `full`, verified, with all its leaves."""
    return check_ledger(full)


def hashes(texts: list[str]) -> list[bytes]:
    """Hashes out of JSON."""
    return [base64.b64decode(text) for text in texts]


def head_of(note: str) -> Checkpoint:
    """The head in a note."""
    return parse_checkpoint(parse_note(note).text)


def sizes(ledger: Ledger) -> list[int]:
    """The sizes that were published, as far as their proofs tell."""
    found = []
    for size in range(1, 10_000):
        answer = ledger.ask(f"/v1/proofs/inclusion?index=0&size={size}")
        if answer.status == 200:
            found.append(size)
        elif answer.slug == "past-the-end":
            return found
        else:
            assert (answer.status, answer.slug) == (404, "no-checkpoint")
            assert answer.json()["field"] == "size"
    raise AssertionError("the tree has no end")


def test_an_event_is_found_by_index_and_by_id(full: Ledger, log: CheckedLog) -> None:
    for index in (0, 5, 255, 256, 511, 512, log.size - 1):
        parsed = parse_leaf(log.leaves[index])
        by_index = full.ask(f"/v1/events/{index}")
        by_id = full.ask(f"/v1/events/{parsed.event.id}")
        assert by_index.body == by_id.body
        found = by_index.json()
        assert found["leaf"].encode() == log.leaves[index]
        assert hashes([found["leaf_hash"]]) == [leaf_hash(log.leaves[index])]
        assert found["index"] == index
        assert found["received"]["by"] == parsed.received.by
        # Some of these events are of a day of the past.
        assert set(found) - {"late_s"} == {"index", "event", "received", "leaf_hash", "leaf"}


def test_a_read_event_comes_with_its_proof(full: Ledger, log: CheckedLog) -> None:
    for index in (0, 255, 256, log.size - 1):
        found = full.ask(f"/v1/events/{index}?proof=1&from_size=100").json()
        proof = parse_proof(found["proof"])
        head = check_proof(proof, leaf_hash=leaf_hash(log.leaves[index]), policy=full.policy)
        assert head.checkpoint.tree_size == log.size
        assert (found["consistency"]["from"], found["consistency"]["to"]) == (100, log.size)


def test_inclusion_is_proved_at_every_published_size(full: Ledger, log: CheckedLog) -> None:
    published = sizes(full)
    assert published[-1] == log.size
    assert len(published) >= 3
    for size in published:
        for index in {0, size // 2, size - 1}:
            answer = full.ask(f"/v1/proofs/inclusion?index={index}&size={size}")
            proof = parse_proof(answer.body)
            head = check_proof(proof, leaf_hash=leaf_hash(log.leaves[index]), policy=full.policy)
            assert (proof.leaf_index, head.checkpoint.tree_size) == (index, size)


def test_inclusion_and_consistency_are_proved_between_any_sizes(
    full: Ledger, log: CheckedLog
) -> None:
    roots = {size: head_root(full, size, log) for size in (1, 2, 255, 256, 257, 511, log.size)}
    for size, root in roots.items():
        for index in {0, size // 3, size - 1}:
            found = full.ask(
                f"/v1/proofs/inclusion?index={index}&size={size}", accept="application/json"
            ).json()
            assert (found["index"], found["tree_size"]) == (index, size)
            check_inclusion(
                leaf_hash=leaf_hash(log.leaves[index]),
                leaf_index=index,
                tree_size=size,
                proof=hashes(found["hashes"]),
                root_hash=root,
            )
            assert hashes([found["leaf_hash"]]) == [leaf_hash(log.leaves[index])]
        for other in roots:
            if other <= size:
                check_consistency(
                    old_size=other,
                    new_size=size,
                    proof=consistency(full, other, size),
                    old_root=roots[other],
                    new_root=root,
                )


def head_root(ledger: Ledger, size: int, log: CheckedLog) -> bytes:
    """The root at a size, proved to be the beginning of the published tree."""
    frontier = Frontier()
    for leaf in log.leaves[:size]:
        frontier.append(leaf_hash(leaf))
    check_consistency(
        old_size=size,
        new_size=log.size,
        proof=consistency(ledger, size, log.size),
        old_root=frontier.root(),
        new_root=log.head.checkpoint.root_hash,
    )
    return frontier.root()


def consistency(ledger: Ledger, old: int, new: int) -> list[bytes]:
    """A consistency proof, the same in both forms."""
    target = f"/v1/proofs/consistency?from={old}&to={new}"
    text = ledger.ask(target).text
    found = ledger.ask(target, accept="application/json").json()
    assert (found["from"], found["to"]) == (old, new)
    assert found["hashes"] == text.splitlines()
    assert text == "".join(f"{line}\n" for line in found["hashes"])
    return hashes(found["hashes"])


def test_sizes_that_are_left_out_are_the_published_one(full: Ledger, log: CheckedLog) -> None:
    found: Any = full.ask("/v1/proofs/inclusion?index=3", accept="application/json").json()
    assert found["tree_size"] == log.size
    assert found["checkpoint"] == log.head.note
    assert full.ask("/v1/proofs/inclusion?index=3").text.endswith(log.head.note)
    found = full.ask("/v1/proofs/consistency?from=3", accept="application/json").json()
    assert (found["to"], found["checkpoint"]) == (log.size, log.head.note)
    found = full.ask(
        "/v1/proofs/inclusion?index=3&size=9&from_size=2", accept="application/json"
    ).json()
    assert (found["consistency"]["from"], found["consistency"]["to"]) == (2, 9)
    assert "checkpoint" not in found


def test_nothing_is_to_prove_from_the_empty_tree_or_to_the_same(full: Ledger) -> None:
    for old, new in ((0, 0), (0, 5), (5, 5)):
        assert consistency(full, old, new) == []


def test_a_proof_of_what_was_just_appended_waits_for_its_head(ledger: Ledger) -> None:
    for _ in range(5):
        index = ledger.append(event()).json()["results"][0]["index"]
        answer = ledger.ask(f"/v1/events/{index}?proof=1")
        assert head_of(parse_proof(answer.json()["proof"]).checkpoint).tree_size > index


def test_partial_tiles_and_bundles_of_every_width_are_the_beginning_of_the_wider(
    full: Ledger, log: CheckedLog
) -> None:
    whole = full.ask("/tile/0/000").body
    for width in (1, 2, 17, 255):
        assert full.ask(f"/tile/0/000.p/{width}").body == whole[: 32 * width]
        bundle = full.ask(f"/tile/entries/000.p/{width}").body
        assert decode_bundle(bundle) == list(log.leaves[:width])
    assert full.ask("/tile/1/000.p/1").body == full.ask("/tile/1/000.p/2").body[:32]
    assert full.ask("/tile/2/000.p/1").slug == "no-tile"
    assert full.ask("/tile/0/%30%30%30").body == whole


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("br, GZIP;q=0.5", "gzip"),
        ("gzip;q=0, identity", None),
        ("identity", None),
        ("", None),
    ],
)
def test_bundles_are_compressed_for_whoever_takes_it(
    full: Ledger, accepted: str, encoding: str | None
) -> None:
    answer = full.ask("/tile/entries/000", accept_encoding=accepted)
    assert answer.headers["Content-Encoding"] == encoding
    assert answer.headers["Vary"] == "Accept-Encoding"
    plain = full.ask("/tile/entries/000", accept_encoding="identity").body
    assert (gzip.decompress(answer.body) if encoding else answer.body) == plain
    assert int(answer.headers["Content-Length"]) == len(answer.body)


def test_tiles_end_where_the_published_tree_does(full: Ledger, log: CheckedLog) -> None:
    last = log.size % 256
    assert full.ask(f"/tile/0/002.p/{last}").status == 200
    assert full.ask(f"/tile/0/002.p/{last + 1}").slug == "no-tile"
    assert full.ask(f"/tile/entries/002.p/{last + 1}").slug == "no-tile"


@pytest.mark.parametrize(
    ("target", "cache", "vary"),
    [
        ("/checkpoint", "no-cache", None),
        ("/tile/0/000", f"public, {FOREVER}", None),
        ("/tile/0/000.p/5", "public, max-age=60", None),
        ("/tile/entries/000", f"private, {FOREVER}", "Accept-Encoding"),
        ("/tile/entries/000.p/5", "private, max-age=60", "Accept-Encoding"),
        ("/v1/proofs/inclusion?index=0", "no-cache", "Accept"),
        ("/v1/proofs/consistency?from=0", "no-cache", "Accept"),
        ("/v1/proofs/consistency?from=0&to=5", "public, max-age=86400", "Accept"),
        ("/v1/events/0", "private, no-cache", None),
        ("/v1/log", "no-cache", None),
        ("/tile/0/999", "no-store", None),
        ("/v1/events/999999", "no-store", None),
        ("/nothing", "no-store", None),
    ],
)
def test_answers_say_how_long_they_may_be_kept(
    full: Ledger, target: str, cache: str, vary: str | None
) -> None:
    headers = full.ask(target).headers
    assert headers["Cache-Control"] == cache
    assert headers["Vary"] == vary
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Server"] == "witnessed-ledger"


@pytest.mark.parametrize(
    ("target", "media"),
    [
        ("/checkpoint", "text/plain; charset=utf-8"),
        ("/tile/0/000", "application/octet-stream"),
        ("/tile/entries/000", "application/octet-stream"),
        ("/v1/proofs/inclusion?index=0", "text/plain; charset=utf-8"),
        ("/v1/proofs/consistency?from=0", "text/plain; charset=utf-8"),
        ("/v1/events/0", "application/json"),
        ("/v1/log", "application/json"),
        ("/v1/problems", "application/json"),
        ("/v1/openapi.json", "application/json"),
        ("/nothing", "application/problem+json"),
    ],
)
def test_answers_say_what_they_are(full: Ledger, target: str, media: str) -> None:
    assert full.ask(target).headers["Content-Type"] == media


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html", False),
        ("application/json", True),
        ("application/*", True),
        ("Application/JSON", True),
        ("application/json, text/plain, */*", True),
        ("text/plain, application/json", False),
        ("*/*, application/json", True),
        ("text/*, application/json;q=0.9", False),
        ("text/plain;q=0.5, application/json;q=0.9", True),
        ("application/json;q=0", False),
        ("application/json;q=x", False),
        ("application/json; charset=utf-8; q=1, text/plain;q=0.1", True),
    ],
)
def test_json_is_given_to_whoever_prefers_it(accept: str | None, expected: bool) -> None:
    assert prefers_json(accept) is expected


def test_the_log_says_what_it_is(full: Ledger, log: CheckedLog) -> None:
    found = full.ask("/v1/log", token=None).json()
    assert found == {
        "origin": "example.com/audit",
        "verifier_keys": [log.head.log_key],
        "witnesses": [],
        "policy": (full.directory / "policy").read_text(),
        "tree_size": log.size,
        "clock_behind_s": 0,
        "published_size": log.size,
        "index": {"current": True, "sealed_segments": 0, "full_segments": 0},
    }


def test_the_service_says_that_it_is_well(full: Ledger) -> None:
    assert full.ask("/healthz", token=None).json() == {"status": "ok"}
    assert full.ask("/readyz", token=None).json() == {"status": "ready", "warnings": []}


def test_every_kind_of_problem_is_explained(full: Ledger) -> None:
    kinds = full.ask("/v1/problems", token=None).json()["problems"]
    types = [kind["type"] for kind in kinds]
    assert len(set(types)) == len(types)
    assert full.ask("/nothing").json()["type"] in types
    assert all(kind["meaning"] and kind["title"] and kind["status"] >= 400 for kind in kinds)


def test_what_left_the_disk_is_verified_beside_the_loop(
    full: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of 16 MiB takes a tenth of a second."""
    targets = ("/v1/events/5", "/v1/events/5?proof=1", "/tile/entries/000", "/tile/entries/000.p/9")
    before = [full.ask(target).json().get("leaf") for target in targets[:2]]
    bundles = [full.ask(target).body for target in targets[2:]]
    threads: set[threading.Thread] = set()

    def noted(name: str) -> None:
        method = getattr(LogStore, name)

        def read(*arguments: Any, **named: Any) -> Any:
            threads.add(threading.current_thread())
            return method(*arguments, **named)

        monkeypatch.setattr(LogStore, name, read)

    noted("leaf")
    noted("bundle")
    monkeypatch.setattr(LogStore, "local_start", lambda _store: COUNT)
    assert [full.ask(target).json().get("leaf") for target in targets[:2]] == before
    assert [full.ask(target).body for target in targets[2:]] == bundles
    assert threads
    assert "served-ledger" not in {each.name for each in threads}
