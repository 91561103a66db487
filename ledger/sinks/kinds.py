"""From the configuration of a sink to its receiver.

Each kind is imported when a sink of it runs: a file of JSON lines needs no HTTP.
"""

from ledger.sinks.config import SinkConfig
from ledger.sinks.receiver import Receiver


def open_receiver(config: SinkConfig) -> Receiver:
    """The receiver of a sink; it connects when it sends."""
    match config.type:
        case "file":
            from ledger.sinks.files import FileReceiver

            return FileReceiver(config)
        case _:
            from ledger.sinks.http_receiver import HttpReceiver

            return HttpReceiver(config)
