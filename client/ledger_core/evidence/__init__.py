"""The file of evidence that is handed over with an answer, and its check offline.

bundle     the layout of the .zip, and its writer
verifier   the check by a trusted policy
"""
