"""Answers queries on a log: from an expression to rows, totals, facets and cursors.

    plan_nodes       the steps of a plan
    plan_ranges      the steps that read ranges of delays and ports
    plan             expression -> which terms to read, and how to combine their posting lists
    term_sources     which dimensions a growing segment holds, and what others are derived from
    hashed_terms     terms of entries whose texts would take too much memory
    word_texts       the words of a growing segment
    segment_terms    the terms of one segment as it grows
    open_segments    the end of the log, indexed in memory
    leaf_cache       leaves by index, many at once
    resolve_ids      ids and times of receipt -> indices
    evaluator        a plan over up to 256 segments: members that must match, members that may
    budget           the time and the rows that a query may still use
    executor         a run over all windows within limits: the rows of one page, the total
    event_times      the times of entries, from the index, from memory or from the leaves
    time_run         as `executor`, in the order of the events' times
    batches          every match without limits, for exports
    facets           counts by value and by time
    columns          the values of fields in one segment
    value_stream     every value of a field with its count, in constant memory
    tallies          counts by one field or two, with distinct values and numbers
    cursor           the position of the next page, as text
    answer           rows, a page with its counts, the state of the index
    explain          a plan as text, with counts
    engine           all of the above behind one class; the service calls it
    log_view         counts and terms that one caller may see, in a bounded time
    hints            why a query found nothing
    catalog          the fields and keys that a query can name
    open_index       opens the index of a log, without segments that are of other entries
    spilled_segment  a full segment whose terms don't fit into memory
    segment_builder  seals full segments into the index; rebuilds and checks it
    indexer          the process and the thread that keep the index up to date
    parquet_segments full segments as Parquet for `ledger sql`, and the process that makes them

The language is `ledger_core.query`, the index format `ledger.store.index`.
"""
