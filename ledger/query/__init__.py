"""Answers queries on a log: from an expression to rows, totals, facets and cursors.

    plan             expression -> which terms to read, and how to combine their posting lists
    segment_terms    the terms of one segment as it grows
    open_segments    the end of the log, indexed in memory
    leaf_cache       leaves by index, many at once
    resolve_ids      ids and times of receipt -> indices
    evaluator        a plan over up to 256 segments: members that must match, members that may
    budget           the time and the rows that a query may still use
    executor         a run over all windows within limits: the rows of one page, the total
    facets           counts by value and by time
    cursor           the position of the next page, as text
    explain          a plan as text, with counts
    engine           all of the above behind one class; the service calls it
    segment_builder  seals full segments into the index; rebuilds and checks it
    indexer          the process and the thread that keep the index up to date
    parquet_segments full segments as Parquet for `ledger sql`, and the process that makes them

The language is `ledger_core.query`, the index format `ledger.store.index`.
"""
