"""The options by which a command finds a bucket."""

import os
from collections.abc import Callable
from typing import Any, Final

import click

from ledger.log.public_policy import public_url
from ledger.object_storage.place import Place
from ledger_client.cli.console import note

SCHEMES: Final = ("s3://", "https://", "http://", "file://")

ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""Variables by which obstore finds another server than AWS."""


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a bucket; `make_place` takes them."""
    for option in (
        click.option("--anonymous", is_flag=True, help="Send no credentials: a public bucket."),
        click.option("--insecure", is_flag=True, help="Allow http:// to another host."),
        click.option("--ca-file", default="", help="PEM certificates that sign the server's."),
        click.option("--region", default="", help="The region of the bucket."),
        click.option(
            "--endpoint",
            default="",
            help="The S3-compatible server. Default: AWS, or that of AWS_ENDPOINT_URL.",
        ),
    ):
        command = option(command)
    return command


def make_place(url: str, given: dict[str, Any]) -> Place:
    """The place of a command line. Raises: MalformedError."""
    place = Place(url, **given)
    place.check()
    if place.is_s3 and not place.endpoint:
        note(f"{url} is looked for at {_default_server()}; --endpoint names another server")
    return place


def _default_server() -> str:
    """The server of a bucket without `--endpoint`: AWS, or what the environment names."""
    named = [
        f"{public_url(os.environ[name])} (of {name})"
        for name in ENDPOINT_VARIABLES
        if os.environ.get(name)
    ]
    return ", ".join(named) or "AWS"
