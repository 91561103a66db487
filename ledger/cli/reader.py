"""The options of `ledger serve --read-only`, and the folder that they make."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from ledger.cli.place_options import place_options
from ledger.reader.data_dir import (
    CACHE_BYTES_MIN,
    ReaderConfig,
    ReaderPaths,
    create_reader,
    read_config,
)
from ledger.service.app import Serve
from ledger_client.cli.client_options import EXISTING_FILE
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.policy import POLICY_BYTES_MAX


class ReaderOptions(NamedTuple):
    """The options as they were given. `url` is empty without --read-only."""

    url: str
    policy: Path | None
    cache_bytes: int | None
    place: dict[str, Any]

    def config(self) -> ReaderConfig:
        """The configuration of a new folder."""
        chosen: dict[str, Any] = (
            {} if self.cache_bytes is None else {"cache_bytes": self.cache_bytes}
        )
        config = ReaderConfig(url=self.url, **self.place, **chosen)
        # A later start may have another environment.
        return msgspec.structs.replace(config, endpoint=config.place().endpoint)

    def change(self, before: ReaderConfig) -> ReaderConfig:
        """The configuration with what was given."""
        given = {name: value for name, value in self.place.items() if value}
        given |= {} if not self.url else {"url": self.url}
        given |= {} if self.cache_bytes is None else {"cache_bytes": self.cache_bytes}
        return msgspec.structs.replace(before, **given)

    @property
    def are_given(self) -> bool:
        """Whether any but --read-only is."""
        return bool(self.policy or self.cache_bytes or any(self.place.values()))


def reader_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --read-only and what belongs to it, which the command gets as `reader`."""

    @functools.wraps(command)
    def with_reader(
        *args: Any,
        read_only: str,
        policy: Path | None,
        cache_bytes: int | None,
        endpoint: str,
        region: str,
        ca_file: str,
        insecure: bool,
        anonymous: bool,
        **others: Any,
    ) -> None:
        place = {
            "endpoint": endpoint,
            "region": region,
            "ca_file": ca_file,
            "insecure": insecure,
            "anonymous": anonymous,
        }
        options = ReaderOptions(read_only, policy, cache_bytes, place)
        command(*args, reader=options, **others)

    for option in (
        click.option(
            "--cache-bytes",
            type=click.IntRange(min=CACHE_BYTES_MIN),
            help="With --read-only: the most that the cache takes of the disk.",
        ),
        click.option(
            "--policy",
            type=EXISTING_FILE,
            help="With --read-only: the policy by which the archive is verified.",
        ),
        click.option(
            "--read-only",
            metavar="URL",
            default="",
            help="Serve the archive at s3://bucket/prefix or file:///…, which takes no events.",
        ),
    ):
        with_reader = option(with_reader)
    return place_options(with_reader)


def prepare_reader(directory: Path, options: ReaderOptions) -> bool:
    """Whether the folder is that of a reader, which --read-only makes if it isn't there.

    Raises: UsageError; MalformedError for an unfit address or policy.
    """
    paths = ReaderPaths(directory)
    if paths.config.exists():
        config = read_config(paths)
        if options.change(config) != config:
            raise click.UsageError(f"{paths.config} says something else: edit it, or leave it out")
        if options.policy and _policy_bytes(options.policy) != _policy_bytes(paths.ledger.policy):
            raise click.UsageError(f"{paths.ledger.policy} is another policy: replace that file")
        return True
    if not options.url:
        if options.are_given:
            raise click.UsageError("--policy, --cache-bytes and those of a bucket need --read-only")
        return False
    if options.policy is None:
        raise click.UsageError(f"--read-only needs --policy to make {directory}")
    try:
        create_reader(directory, options.config(), _policy_bytes(options.policy))
    except FileExistsError as error:
        raise click.UsageError(str(error)) from None
    return True


def load_reader() -> Serve:
    """The service of a reader. It needs the extra `archive`: UnavailableError without it."""
    from ledger.reader.app import serve

    return serve


def _policy_bytes(path: Path) -> bytes:
    return read_limited(path, POLICY_BYTES_MAX)
