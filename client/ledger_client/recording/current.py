"""The recorder of this application, for what is declared before there is one."""

from ledger_client.recording.recorder import Recorder

_recorders: list[Recorder] = []


def use_recorder(recorder: Recorder) -> Recorder:
    """Make this the recorder of `@audited` and the integrations; it is returned."""
    _recorders[:] = [recorder]
    return recorder


def current_recorder() -> Recorder:
    """The recorder in use. Raises: RuntimeError when there is none."""
    if not _recorders:
        raise RuntimeError("there is no recorder: make one, and call use_recorder(recorder)")
    return _recorders[0]
