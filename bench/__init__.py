"""Measurements of the running service: `make bench` prints a table and writes results.json.

rows                                        a row of the table; __main__ runs the parts
events, varied, questions, load, heads      events, queries and load to measure with
append, workers, overload, publishing       appends: alone, by workers, overloaded, with a quorum
sequencing                                  the steps of the sequencer, which bound all workers
operating                                   what TLS, limits, audits, log and metrics cost appends
growth                                      what appends cost as a log grows
columns, incident                           questions to DuckDB and chDB, and among a million events
searching, heavy_reader, query, million     searches, their cost to appends, and large logs
verdicts                                    the tables of query
evidence, verifying, secrets, record        bundles, the auditor's cost, the scan, the recorder
mirror, witness, archive, archive_reading   other services, a copy in a bucket, reads of it
sinks                                       what each sink sends, and what all followers cost
compare                                     this tree beside an older commit
peers                                       our appends beside PostgreSQL, SQLite and Tessera:
contender, postgres, tables, tessera        how these are run
"""

import os

# What is measured is one process, unless a part says otherwise.
os.environ.setdefault("LEDGER_WORKERS", "0")
