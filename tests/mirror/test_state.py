"""The state of a mirror, and its file."""

from pathlib import Path

from structlog.testing import capture_logs

from ledger.mirror.state import MirrorState, read_status


def test_a_status_that_can_not_be_written_is_said_once_and_written_later(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    times = iter(range(1, 100))
    state = MirrorState(folder / "status.json", unix_s=lambda: next(times))
    with capture_logs() as lines:
        for size in range(5):
            state.heard(size, held=size)
            state.save()
        assert [line["event"] for line in lines] == ["status_not_written"]
        # Now the disk takes it, though nothing has changed since.
        folder.mkdir()
        state.save()
        state.save()
    assert [line["event"] for line in lines] == ["status_not_written", "status_written_again"]
    assert read_status(folder / "status.json") == state.status
    assert state.status.log_size == 4
