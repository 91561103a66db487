"""The extras of the distribution: which package each one installs, and the error without it."""

from typing import Final

DISTRIBUTION: Final = "witnessed-ledger-client"

EXTRA_BY_PACKAGE: Final = {
    "aiohttp": "async",
    "cryptography": "ml-dsa",
    "duckdb": "sql",
    "jmespath": "importers",
    "zstandard": "zstd",
}


class MissingExtraError(ImportError):
    """A feature was used whose extra isn't installed; the message names the command to run."""


def missing_extra(feature: str, error: ModuleNotFoundError) -> ImportError:
    """The error to raise when a feature's module could not be imported."""
    extra = EXTRA_BY_PACKAGE.get((error.name or "").partition(".")[0])
    if extra is None:
        return error
    return MissingExtraError(
        f"{feature} needs the extra {extra}: pip install '{DISTRIBUTION}[{extra}]'"
    )
