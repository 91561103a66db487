"""The plans: what each call sends, and what the answer must prove. No I/O.

heads      accepting a head by a consistency proof, and the proofs that lead to it
append     what an append or an erasure sends
receipts   what the answer to an append must prove
read       one entry, all entries bundle by bundle, inclusion proofs
saved      saved queries, and what `@name` stands for
question   a query as it is sent, and which events meet it
page_check, count_check     the numbers of an answer, held against its events
search     pages of events, pivots
values     every value of a field, held against the trailer
stream     following new events
kept_heads the published heads that a log keeps
export     whole files of events; export_rows, export_proof: their rows and their proofs
evidence   bundles of evidence
"""
