"""What an audit event is, and the one form of its bytes. Pure: no I/O, clock or randomness.

Its modules, from the meaning to the bytes:

    model      the fields, the one table of limits, the error that refuses an event
    checking   the slow second reading, which names what is wrong and where
    canonical  texts, RFC 8785 bytes, leaves
    reading    events as they arrive, with what is filled in
    ids        UUIDs for new events and for imported ones
    secrets    what looks like a secret, found and masked
    private    commitments to erasable values, and what opens them
    schema     the JSON Schema, made from the model
"""
