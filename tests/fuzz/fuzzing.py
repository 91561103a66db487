"""`python -m tests.fuzz.fuzzing NAME [arguments of libFuzzer]`: one target under atheris."""

import sys

import atheris

with atheris.instrument_imports(include=["ledger", "ledger_client", "ledger_core"]):
    from tests.fuzz.targets import parse_any


def main() -> None:
    """Run until libFuzzer ends the process: after its time, or at a finding."""
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda data: _give(name, data))
    atheris.Fuzz()


def _give(name: str, data: bytes) -> int:
    """0 as libFuzzer wants it: the input may join the corpus."""
    parse_any(name, data)
    return 0


if __name__ == "__main__":
    main()
