"""Taking syslog from hosts that can send nothing else, and recording it as events.

    socket ──▶ framing ──▶ message ──▶ events ──▶ Recorder ──▶ the ledger
               frames      RFC 5424    an event   spool, then
                           or whole    of ours    verified

framing    what is one message in a stream of bytes; pure
message    what a message says; pure
events     a message as an event of ours; pure
listener   the sockets: bounded memory, and no more is read while nothing can be kept
"""
