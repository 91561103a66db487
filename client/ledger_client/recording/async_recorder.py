"""`AsyncRecorder`: a recorder for an event loop, with the same arguments."""

import asyncio
from typing import Final, Self, Unpack

from ledger_client.recording.options import RecorderStatus
from ledger_client.recording.recorder import RecordArguments, Recorder


class AsyncRecorder:
    """A `Recorder` for code that must not hold up its event loop.

        async with AsyncRecorder(Recorder(url, token, spool=…, policy=…)) as recorder:
            await recorder.record("user.deleted", actor=("user", "u_1"), target=("user", "u_2"))

    Recording takes some 20 µs and is done on the loop. Only where it may wait, for the disk with
    fsync="each" or for room in a full spool, is it done in a thread, with the context of the task.
    """

    def __init__(self, recorder: Recorder) -> None:
        """Closing this closes `recorder`; until then code without a loop may use that too."""
        self.recorder: Final = recorder

    async def record(self, action: str, **arguments: Unpack[RecordArguments]) -> str | None:
        """As `Recorder.record`."""
        if self.recorder.may_wait:
            return await asyncio.to_thread(self.recorder.record, action, **arguments)
        return self.recorder.record(action, **arguments)

    async def flush(self, timeout_s: float = 10.0) -> bool:
        """As `Recorder.flush`."""
        return await asyncio.to_thread(self.recorder.flush, timeout_s)

    async def close(self, timeout_s: float = 10.0) -> bool:
        """As `Recorder.close`."""
        return await asyncio.to_thread(self.recorder.close, timeout_s)

    @property
    def status(self) -> RecorderStatus:
        """As `Recorder.status`."""
        return self.recorder.status

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
