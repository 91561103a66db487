"""The transparency log as pure functions: no I/O, no clock, no randomness, no logging.

A module is one idea, mostly one specification, and opens with its format in prose and an example.
A reader who wants to know how such a log works may take them in this order:

    hashing      leaf and node hashes, the root of an empty tree      RFC 6962 §2.1
    tree         complete subtrees, and the edge a log grows by       RFC 6962 §2.1
    prove        which nodes a proof needs, and the proof from them   RFC 6962 §2.1.1, §2.1.2
    verify       inclusion, consistency and range proofs              RFC 9162 §2.1.3, §2.1.4
    tile         the tree as files                                    c2sp.org/tlog-tiles
    edge         the tiles that still grow                            c2sp.org/tlog-tiles
    keys         verifier keys, signer keys, and what they sign with  c2sp.org/signed-note
    note         a text, and those who stand by it                    c2sp.org/signed-note
    checkpoint   origin, tree size, root hash                         c2sp.org/tlog-checkpoint
    cosignature  what a witness says, and when                        c2sp.org/tlog-cosignature
    policy       whose word is enough                                 c2sp.org/tlog-policy
    proof        all of it in one file, checked offline               c2sp.org/tlog-proof
    witness      what a witness answers                               c2sp.org/tlog-witness

`errors` and `wire` serve them all. What is not written here: how bytes are stored (`ledger.store`),
and what a leaf means (`ledger_core.event`).
"""
