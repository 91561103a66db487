"""The query language, and the test of one event against it: pure functions, for service and client.

    fields        the one table of fields: fields of the language, dimensions of the index
    ast           a query as a value, and back to text
    scanner       the text of a query as it is read, and the error that names a place in it
    parser        text -> ast; the grammar
    mistakes      what other languages write, and the form that is right here
    value_parser  the values behind a field's colon: addresses, times, ids, words
    analyzer      leaf -> values; cut values, addresses, times and numbers as terms
    event_values  the texts, ids, changed values and masks of an event
    words         text -> words, in every script
    user_agents   user agent -> browser or tool
    leaf_filter   ast -> a quick test of a leaf's bytes
    predicate     ast -> an exact test of one leaf
    order         the orders of an answer
    counting      what a search can count by
    saved         saved queries, as events
    pivots        the follow-up queries of an investigation

How the index stores the terms is `ledger.store.index`; how a query is answered is `ledger.query`.
"""
