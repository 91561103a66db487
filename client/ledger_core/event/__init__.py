"""Audit events and the one form of their bytes. Pure: no I/O, clock or randomness.

Its modules, in reading order:

    model             the fields, the one table of limits, the error that refuses an event
    diagnostics       the slow second reading, which names what is wrong and where
    plain             which events the fast encoder writes as RFC 8785
    times             the one text of a time
    canonical         the other texts, RFC 8785 bytes, leaves
    leaf_batch        reads many leaves at once
    reader            reads events as they arrive, and fills in id and time
    ids               UUIDs for new events and for imported ones
    truncation        makes texts of other systems fit the limits, and notes each change
    recorder_numbers  the numbers of recorders: which are missing, and which are explained
    secrets           finds secrets and masks them
    commitments       commitments to erasable values, and the openings that prove them
    csv               events as rows of a table
    repeated_names    JSON in which no name stands twice in an object
    schema            the JSON Schema, made from the model
"""
