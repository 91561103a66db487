"""A damaged bundle: only an event whose id lies in it is refused."""

from pathlib import Path

from ledger.service.data_dir import DirectoryPaths
from tests.query.test_damaged_bundle import damage
from tests.service.serving import event, make_ledger, serving

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
