"""A damaged bundle: what lies in it is refused, and nothing else is taken for it."""

from pathlib import Path

from ledger.service.data_dir import DirectoryPaths
from ledger_core.tlog.tile import TILE_WIDTH
from tests.query.test_damaged_bundle import damage
from tests.service.serving import Ledger, event, make_ledger, serving
from tests.service.test_saved_queries import save

PRIVATE = '[[fields]]\npath = "/targets/*/name"\nsubject = "/targets/*/id"\n'


def test_an_event_whose_id_lies_in_a_damaged_bundle_is_refused_alone(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    (directory / "private.toml").write_text(PRIVATE)
    named = event(targets=[{"type": "user", "id": "u_9", "name": "N. N."}])
    lost, kept = event(), event()
    with serving(directory, tokens) as ledger:
        answer = ledger.append(lost, named, *(event() for _ in range(300)), kept)
        indices = [each["index"] for each in answer.json()["results"]]
    damage(DirectoryPaths(directory).log, 0)
    with serving(directory, tokens) as ledger:
        # Its retries too: a recorder sends the same batch until it has an answer for each event.
        for _ in range(2):
            new = event()
            answer = ledger.append(lost, kept, named, new)
            assert answer.status == 207, answer.text
            results = answer.json()["results"]
            for place in (0, 2):
                error = results[place]["error"]
                assert error["type"].endswith("#damaged")
                assert "bundle 0 is damaged" in error["detail"]
            assert f"index {indices[0]} " in results[0]["error"]["detail"]
            assert (results[1]["index"], results[1]["duplicate"]) == (indices[-1], True)
            assert ledger.ask(f"/v1/events/{new['id']}").json()["index"] == results[3]["index"]
        assert ledger.append(lost).status == 422
        assert ledger.ask("/readyz").status == 200


def test_a_name_whose_last_change_may_be_damaged_has_no_older_text_and_is_not_missing(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)

    def fill(ledger: Ledger) -> None:
        assert ledger.append(*(event() for _ in range(2 * TILE_WIDTH))).status == 200

    with serving(directory, tokens) as ledger:
        fill(ledger)
        save(ledger, "old", "actor:u_1")
        fill(ledger)
        save(ledger, "old", "actor:u_2")
        lost = save(ledger, "lost", "actor:u_3").json()["index"] // TILE_WIDTH
        fill(ledger)
        save(ledger, "new", "actor:u_4")
    damage(DirectoryPaths(directory).log, lost)
    with serving(directory, tokens) as ledger:
        assert ledger.ask("/v1/queries/new", token="read").json()["query"] == "actor:u_4"
        for path in ("/v1/queries/old", "/v1/queries/lost", "/v1/queries", "/v1/events?q=@lost"):
            answer = ledger.ask(path, token="read")
            assert (answer.status, answer.slug) == (500, "damaged"), path
            assert f"bundle {lost} is damaged" in answer.json()["detail"]
