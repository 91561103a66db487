"""The index on disk: which entries of a segment have which terms.

    roaring_containers  a posting list as one container of a roaring bitmap
    postings            all terms of one dimension of one segment
    term_blocks         consecutive terms, compressed together
    segment             a sealed segment and its root
    segment_file        the file of a segment: written once, read with checksums
    index_store         the folder of segments: reading, writing, checking

`ledger_core.query.fields` lists the dimensions.
"""
