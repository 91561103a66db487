"""Sinks: each entry of the log, sent to the tools that a company already watches.

    config        the sinks of a ledger: `DIR/sinks.toml`, and editing it
    record        one entry as a sink sends it: index, leaf hash, origin, event
    ocsf          the same as an event of the Open Cybersecurity Schema Framework
    receiver      what every kind of sink offers: send a batch, say what became of each record
    files         JSON lines in files, with rotation
    http_receiver a request for each batch: NDJSON, Splunk, Elastic, Datadog, webhook
    otlp          the records of OTLP/HTTP, as protobuf
    tls           the TLS of a client, which always checks the certificate
    syslog        RFC 5424 over TLS
    mail          SMTP
    jetstream     NATS JetStream
    kafka         Kafka
    kinds         from the configuration of a sink to its receiver
    dead_letters  what a receiver refused for good: bounded, listed, sent again by command
    delivery      sends batches until each record is confirmed or a dead letter
    firings       what a mirror's alarms have fired
    worker        the process of one sink

A sink is a follower (`ledger.follow`): at least once, in order, from durable entries alone. It
sends what the log stores, so of erasable values their commitments, never a value or a salt.
"""
