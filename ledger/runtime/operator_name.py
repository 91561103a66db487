"""The operator who runs this process, as the actor of events."""

import getpass
import os


def operator_name() -> str:
    """The name of this process's user; `uid 1000` for one without a name, as containers have."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
