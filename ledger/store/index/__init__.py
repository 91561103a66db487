"""The index on disk: which entries of a segment have which terms.

    roaring_containers  a posting list as one container of a roaring bitmap
    postings            all terms of one dimension of one segment
    term_blocks         consecutive terms as one LMDB value
    segment             a sealed segment and its root
    index_store         the LMDB environment: reading, writing, checking

`ledger.store.keyspace` lists the keys and values, `ledger_core.query.fields` the dimensions.
"""
