"""SQL over events, by DuckDB on the reader's own machine (the extra `sql`).

columns    the columns, their types and their places in the leaf
parquet    events as Parquet: written from JSON lines, read back, compared with the leaves
database   the views of one database in memory, which reads the given files and nothing else
values     the values of an answer as JSON and as text
checking   rows of the database against leaves that were verified
recipes    the SQL of `ledger playbook`

Nothing here asks a ledger, and the service never runs a caller's SQL.
"""
