"""Queries: the work of searches, exports and evidence, and the process that does it.

frames      what a front end and the query process send to each other
job         what the work of one request gets: the log, its index, whether it is to end
server      runs the work of all front ends on threads, by turns of their tokens
process     the query process: its start and its end
supervisor  starts that process, or its server in the service
handover    large answers, which the query process writes to the client itself
found_event, store_proofs                 events and proofs as answers show them
search, export, evidence, stream, saved, values, heads, stored_events   the work, by route

A front end asks through `ledger.service.query_pool`. With the setting `query_process` off, the
server runs in the service itself, over the same frames.
"""
