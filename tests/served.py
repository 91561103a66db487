"""A ledger that another process serves, as the tests of the client and of the recorder need it."""

from dataclasses import dataclass
from pathlib import Path

ORIGIN = "example.com/audit"
FLAGS = ("--log-level", "error", "--publish-interval-s", "0.05")


@dataclass(frozen=True)
class ServedLedger:
    """A ledger that is being served, and a token that may append and read."""

    url: str
    token: str
    directory: Path

    @property
    def policy(self) -> Path:
        return self.directory / "policy"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables by which the commands find this ledger."""
        return {
            "LEDGER_URL": self.url,
            "LEDGER_TOKEN": self.token,
            "LEDGER_POLICY": str(self.policy),
        }
