"""What every test may use. The vectors and samples of other people lie beside the repository."""

import os
from pathlib import Path

import pytest

SHARED_DIR = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, loudly, what needs ../shared where there is none; in CI that is an error."""
    if SHARED_DIR.is_dir():
        return
    left_out = [item for item in items if item.get_closest_marker("shared")]
    if os.environ.get("CI"):
        raise pytest.UsageError(f"../shared is missing, and {len(left_out)} tests need it")
    config.stash[LEFT_OUT] = [item.nodeid for item in left_out]
    items[:] = [item for item in items if not item.get_closest_marker("shared")]
    config.hook.pytest_deselected(items=left_out)


LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name what a lone clone did not run."""
    left_out = config.stash.get(LEFT_OUT, [])
    if left_out:
        terminalreporter.section("left out: there is no ../shared beside this clone")
        for nodeid in left_out:
            terminalreporter.line(nodeid)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with vectors/ and samples/; ask for it only under @pytest.mark.shared."""
    return SHARED_DIR
