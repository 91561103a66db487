"""The inputs of tests/corpus: a file a target, a line an input, with escapes beyond ASCII."""

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[1] / "corpus"


def read_corpus(name: str) -> list[bytes]:
    """The inputs of a target."""
    lines = (FOLDER / f"{name}.txt").read_text(encoding="ascii").splitlines()
    return [line.encode("ascii").decode("unicode_escape").encode("latin-1") for line in lines]


def write_corpus(name: str, inputs: set[bytes]) -> None:
    """Replace the inputs of a target; the shortest come first."""
    lines = (
        data.decode("latin-1").encode("unicode_escape").decode("ascii")
        for data in sorted(inputs, key=lambda data: (len(data), data))
    )
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
