"""The options by which a command finds a bucket."""

from collections.abc import Callable
from typing import Any, Final

import click

from ledger.object_storage.place import Place

SCHEMES: Final = ("s3://", "https://", "http://", "file://")


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a bucket; `make_place` takes them."""
    for option in (
        click.option("--anonymous", is_flag=True, help="Send no credentials: a public bucket."),
        click.option("--insecure", is_flag=True, help="Allow http:// to another host."),
        click.option("--ca-file", default="", help="PEM certificates that sign the server's."),
        click.option("--region", default="", help="The region of the bucket."),
        click.option("--endpoint", default="", help="The S3-compatible server. Default: AWS."),
    ):
        command = option(command)
    return command


def make_place(url: str, given: dict[str, Any]) -> Place:
    """The place of a command line. Raises: MalformedError."""
    place = Place(url, **given)
    place.check()
    return place
