"""Makes the receiver of a sink and the form of its records from its configuration.

Each kind is imported when a sink of it runs: a file of JSON lines needs no HTTP.
"""

from ledger.follow.entries import Entry
from ledger.sinks.config import SinkConfig
from ledger.sinks.receiver import Receiver
from ledger.sinks.record import Record, make_record


def open_receiver(config: SinkConfig) -> Receiver:
    """The receiver of a sink; it connects when it sends."""
    match config.type:
        case "file":
            from ledger.sinks.files import FileReceiver

            return FileReceiver(config)
        case "syslog":
            from ledger.sinks.syslog import SyslogReceiver

            return SyslogReceiver(config)
        case "smtp":
            from ledger.sinks.mail import MailReceiver

            return MailReceiver(config)
        case "nats":
            from ledger.sinks.jetstream import JetStreamReceiver

            return JetStreamReceiver(config)
        case "kafka":
            from ledger.sinks.kafka import KafkaReceiver

            return KafkaReceiver(config)
        case _:
            from ledger.sinks.http_receiver import HttpReceiver

            return HttpReceiver(config)


def format_record(entry: Entry, origin: str, form: str) -> Record:
    """The record of an entry in the form of a sink."""
    record = make_record(entry, origin)
    if form == "native":
        return record
    from ledger.sinks.ocsf import to_ocsf

    return to_ocsf(record)
