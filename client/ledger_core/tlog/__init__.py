"""The transparency log as pure functions: no I/O, no clock, no randomness, no logging.

A module is one idea, mostly one specification, and opens with its format in prose and an example.
In reading order:

    hashing        leaf and node hashes, the root of an empty tree      RFC 6962 §2.1
    tree           tree heads, complete subtrees, the frontier          RFC 6962 §2.1
    prove          the nodes that a proof needs, the proof from them    RFC 6962 §2.1.1, §2.1.2
    verify         proofs of leaves, older trees and subtrees           RFC 9162 §2.1.3, §2.1.4
    tile           the tree as files                                    c2sp.org/tlog-tiles
    growing_tiles  the tiles at the right edge, as a log appends        c2sp.org/tlog-tiles
    keys           verifier keys and signer keys                        c2sp.org/signed-note
    note           a text and its signatures                            c2sp.org/signed-note
    checkpoint     origin, tree size, root hash, and their signatures   c2sp.org/tlog-checkpoint
    cosignature    a witness's signature of a checkpoint and a time     c2sp.org/tlog-cosignature
    policy         the logs and the quorum of witnesses to believe      c2sp.org/tlog-policy
    proof          a proof and its checkpoint in one file               c2sp.org/tlog-proof
    multi_proof    the text of a proof for many leaves                  (ours)
    trust          the heads that a client has accepted                 (ours)
    tiled_tree     the tree of a verified head, read tile by tile       c2sp.org/tlog-tiles
    witness        requests for cosignatures, and their answers         c2sp.org/tlog-witness
    signed_subtree requests to sign a part of a cosigned tree           c2sp.org/tlog-witness
    mirror         entries that are sent to a mirror, and its answers   c2sp.org/tlog-mirror
    log_list       the logs that a network's witnesses cosign           witness-network.org

`errors` and `text` serve them all. Bytes are stored by `ledger.store`, and `ledger_core.event` says
what a leaf means.
"""
