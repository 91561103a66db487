"""The options by which a command finds a bucket."""

from collections.abc import Callable
from typing import Any, Final

import click

from ledger.log.public_policy import public_url
from ledger.object_storage.place import Place, endpoint_variable
from ledger_client.cli.console import note

SCHEMES: Final = ("s3://", "https://", "http://", "file://")


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
    named = Place(url, **given)
    place = named.resolved()
    if place.is_s3 and not named.endpoint:
        note(f"{url} is looked for at {describe_server(place)}; --endpoint names another server")
    place.check()
    return place


def describe_server(place: Place) -> str:
    """The server of a bucket for which no endpoint was given."""
    if not place.endpoint:
        return "AWS"
    return f"{public_url(place.endpoint)} (of {endpoint_variable()})"
