"""The files beside the settings, as the running service has loaded them.

All processes of a service use one content: a front end that is started again later gets what the
service has loaded, not what is on the disk by then. Otherwise an edit that is not finished yet, or
that waits for a restart, would hold in one process and not in the next. At SIGHUP the principals
and the files of TLS are read again, once; the policy, the rules of secrets and the private fields
hold until the service is started again.
"""

from collections.abc import Callable

import msgspec
import structlog

from ledger.runtime.tls import ServerTls, TlsMaterial, read_tls
from ledger.service.data_dir import DirectoryPaths, read_optional
from ledger.service.identities.config import FILE, read_principals
from ledger.service.identities.identities import usable_principals
from ledger.service.policy_file import read_policy_text
from ledger.service.settings import Settings
from ledger_core.tlog.errors import MalformedError, UnavailableError

_log = structlog.get_logger("ledger.service")


class LoadedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the files; empty for an optional one that is missing.

    A front end gets it by a socket: `tls` holds the private key.
    """

    policy: bytes
    secrets: str
    private_fields: str
    principals: str
    tls: TlsMaterial | None


def read_files(paths: DirectoryPaths, settings: Settings) -> LoadedFiles:
    """Read them, and check those that a reload would check. Raises: as `ledger.service.app.serve`.

    `ledger.service.open_parts` checks the others when it uses them.
    """
    tls = read_tls(settings)
    if tls is not None:
        ServerTls(tls)
    return LoadedFiles(
        policy=read_policy_text(paths),
        secrets=read_optional(paths.secrets),
        private_fields=read_optional(paths.private_fields),
        principals=_read_usable_principals(paths),
        tls=tls,
    )


class LiveFiles:
    """The files in use. `current` changes at a reload; used on one event loop."""

    def __init__(self, files: LoadedFiles) -> None:
        self.current = files

    def reload(self, paths: DirectoryPaths, settings: Settings) -> None:
        """Read principals and TLS again; what can't be used is logged, and what was before stays.

        Whether a service speaks TLS never changes.
        """

        def read_principals_again() -> None:
            text = _read_usable_principals(paths)
            self.current = msgspec.structs.replace(self.current, principals=text)

        def read_tls_again() -> None:
            tls = read_tls(settings)
            if tls is not None:
                ServerTls(tls)
                self.current = msgspec.structs.replace(self.current, tls=tls)

        _try(read_principals_again, "principals_not_reloaded")
        if self.current.tls is not None:
            _try(read_tls_again, "tls_not_reloaded")


def _read_usable_principals(paths: DirectoryPaths) -> str:
    path = paths.root / FILE
    text = read_principals(path)
    usable_principals(text, name=str(path))
    return text


def _try(read: Callable[[], None], failed: str) -> None:
    try:
        read()
    except (MalformedError, OSError, UnavailableError) as error:
        _log.error(failed, reason=str(error))
