"""The mirrors of a ledger: `DIR/mirrors.toml`, a table for each.

    [m1]
    url = "https://m1.example.com"
    vkeys = ["example.com/m1+39efaab7+BOkh…"]

The service looks at the file once a second. No secret stands in it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta

from ledger.follow.tables import (
    FollowerConfig,
    add_table,
    read_table,
    read_tables,
    remove_table,
)
from ledger.log.mirror_peer import MIRRORS_FILE, MIRRORS_FOLDER, MIRRORS_MAX
from ledger_client.messages import check_loopback
from ledger_core.tlog.cosignature import CosignatureVerifier
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.keys import VerifierKey
from ledger_core.tlog.mirror import REQUEST_PACKAGES_MAX
from ledger_core.tlog.policy import Policy

KIND: Final = MIRRORS_FOLDER
"""The name of the mirrors' folder, and of their row in the list of followers."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class MirrorTarget(FollowerConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mirror. The last annotation of each field is its help text."""

    url: Annotated[str, "The submission prefix of the mirror: https://m1.example.com."]
    vkeys: Annotated[
        tuple[str, ...],
        Meta(max_length=8),
        "The mirror's verifier keys. Empty: those of the policy's witnesses.",
    ] = ()
    ca_file: Annotated[str, "PEM certificates that the mirror's must be signed by."] = ""
    insecure: Annotated[bool, "Allow http:// to another host."] = False
    gzip: Annotated[bool, "Compress requests."] = True
    interval_s: Annotated[
        Seconds,
        "Seconds between two heads that are sent. A head that the policy wants cosigned is sent at "
        "once.",
    ] = 1.0
    packages_max: Annotated[
        int, Meta(ge=1, le=REQUEST_PACKAGES_MAX), "Packages of 256 entries in one request."
    ] = REQUEST_PACKAGES_MAX
    timeout_s: Annotated[Seconds, "Seconds that the mirror has to answer a request."] = 30.0
    retry_max_s: Annotated[Seconds, "The longest wait after failures, in seconds."] = 60.0

    def check(self) -> None:
        """Raises: MalformedError naming the key."""
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError as error:  # A port or an address that is none.
            raise MalformedError(f"url: {error}") from None
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise MalformedError(f"url: want https://host…, got {self.url!a}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise MalformedError("url: it has no name, password, query or fragment")
        if parts.scheme == "http" and not self.insecure:
            try:
                check_loopback(parts.hostname, option="insecure = true")
            except ValueError:
                raise MalformedError(
                    f"url: over http:// everybody on the way to {parts.hostname} can read the "
                    "entries; insecure = true (--insecure) allows it"
                ) from None
        self.verifiers()

    def verifiers(self) -> tuple[CosignatureVerifier, ...]:
        """The keys of the mirror. Raises: MalformedError."""
        try:
            return tuple(CosignatureVerifier(VerifierKey.parse(vkey)) for vkey in self.vkeys)
        except ValueError as error:
            raise MalformedError(
                f"vkeys: {error}: ledger key show on the mirror's host prints its keys"
            ) from None


def mirror_verifiers(target: MirrorTarget, policy: Policy) -> Sequence[CosignatureVerifier]:
    """The keys of a mirror, or those of the policy's witnesses where its table names none."""
    return target.verifiers() or [each.verifier for each in policy.witnesses]


def mirrors_path(directory: Path) -> Path:
    """The file of the mirrors of a ledger."""
    return directory / MIRRORS_FILE


def read_mirrors(directory: Path) -> dict[str, MirrorTarget]:
    """The mirrors of a ledger, by name. Raises: MalformedError naming mirror and key, OSError."""
    path = mirrors_path(directory)
    return read_tables(path, MirrorTarget, what="mirror", most=MIRRORS_MAX)


def add_target(directory: Path, name: str, target: MirrorTarget) -> None:
    """Append a mirror to the file. Raises: as `add_table`."""
    add_table(mirrors_path(directory), name, target, what="mirror", most=MIRRORS_MAX)


def remove_target(directory: Path, name: str) -> None:
    """Cut a mirror out of the file. Raises: as `remove_table`."""
    path = mirrors_path(directory)
    remove_table(path, name, MirrorTarget, what="mirror", most=MIRRORS_MAX)


def read_target(directory: Path, name: str) -> MirrorTarget | None:
    """One mirror, None when there is none of this name. Raises: as `read_table`."""
    return read_table(mirrors_path(directory), name, MirrorTarget, what="mirror")
