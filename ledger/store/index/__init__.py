"""The index on disk: which entries of a segment have which terms.

    roaring_containers  a posting list as one container of a roaring bitmap
    postings            all terms of one dimension of one segment
    term_blocks         consecutive terms, compressed together
    time_column         the event times of a segment, in blocks
    cached_parts        blocks, columns and hours of segments that stay in memory
    segment             a sealed segment and its root
    sorted_runs         terms and blocks that don't fit into memory, in files without names
    segment_file        the file of a segment: written once, read with checksums
    segment_check       compares a segment with its record and with the log
    group_filter        which of 16 segments may have a term
    index_snapshot      the segments of one moment, as one thread reads them
    index_store         the folder of segments and filters, as it is read
    index_writer        the one writer of that folder

`ledger_core.query.fields` lists the dimensions.
"""
