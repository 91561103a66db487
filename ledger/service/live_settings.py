"""The settings of a running service, some of which it takes anew at SIGHUP."""

from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from ledger.service.settings import RELOADED, Settings
from ledger_core.tlog.errors import MalformedError

Follower = Callable[[Settings], None]

_log = structlog.get_logger("ledger.service")


class LiveSettings:
    """The settings in use. `current` changes at a reload; used on one event loop.

    `read`: reads the settings from flags, variables and the file again.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings] | None = None) -> None:
        self._asked = settings
        self._read: Final = read
        self._adjust: Callable[[Settings], Settings] = lambda settings: settings
        self._followers: list[Follower] = []
        self.current = settings
        self.changed: frozenset[str] = frozenset()
        """The names of the settings that the last reload changed."""

    def adjust(self, adjust: Callable[[Settings], Settings]) -> Settings:
        """Have all settings changed by a function, now and after each reload; those in use now."""
        self._adjust = adjust
        self.current = adjust(self._asked)
        return self.current

    def follow(self, take: Follower) -> None:
        """Call a function with the settings after each reload, changed or not."""
        self._followers.append(take)

    def reload(self) -> None:
        """Read the settings again, and take those of `RELOADED`; the others are logged.

        What can't be read, or not be used, leaves in use what was before, with a log line.
        """
        wanted = self._asked
        try:
            if self._read is not None:
                wanted = self._read()
        except (MalformedError, OSError, UnicodeDecodeError) as error:
            _log.error("settings_not_reloaded", reason=str(error))
        self.replace(wanted)

    def replace(self, wanted: Settings) -> None:
        """Take the settings of `RELOADED` from others."""
        before = self._asked
        changed = {
            name
            for name in Settings.__struct_fields__
            if getattr(wanted, name) != getattr(before, name)
        }
        taken = changed & RELOADED
        if bool(wanted.tls_cert) != bool(before.tls_cert):
            # The scheme of the address would be another one.
            taken -= {"tls_cert", "tls_key", "tls_client_ca"}
        if later := changed - taken:
            _log.warning("settings_need_a_restart", settings=sorted(later))
        self._asked = msgspec.structs.replace(
            before, **{name: getattr(wanted, name) for name in taken}
        )
        self.current = self._adjust(self._asked)
        self.changed = frozenset(taken)
        for take in self._followers:
            take(self.current)
        _log.info("settings_reloaded", changed=sorted(taken))
