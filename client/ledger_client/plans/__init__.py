"""The plans: what each call sends, and what the answer must prove. No I/O.

heads      accepting a head by a consistency proof, and the proofs that lead to it
append     what an append or an erasure sends
receipts   what the answer to an append must prove
read       one entry, all entries bundle by bundle, inclusion proofs
question   what an answer to a query must hold
search     pages of events, pivots
stream     following new events
export     whole files of events
"""
