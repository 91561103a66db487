"""Receives syslog from hosts that can send nothing else, and records it as events.

    socket ──▶ framing ──▶ message ──▶ events ──▶ Recorder ──▶ the ledger
               frames      RFC 5424    an event   spool, then
                           or whole               verified

Its modules, in reading order:

    framing         cuts a stream of bytes into messages; pure
    message         parses a message; pure
    events          maps a message to an event; pure
    proxy_protocol  the header by which a balancer names the sender; no sockets
    turns           records the messages of senders by turns; waits while the spool is full
    datagrams       a message in each; those that are lost are counted
    listener        the sockets: bounded memory; stops reading while the spool is full
"""
