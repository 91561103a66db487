"""The file of evidence that is handed over with an answer, and its check offline.

layout          the files of a bundle, the statement and the limits, with an example
page            what people read in it: README.txt and index.html
writer          writes a bundle piece by piece
archive         opens a .zip from a stranger, and names what does not belong in it
findings        the result of a check
policies        judges policies: weaknesses of one, and whether one is weaker than another
question        checks that each event meets the query
first_edition   checks a bundle as versions before the second edition wrote it
second_edition  checks a bundle of today
verifier        opens a bundle and takes the check of its edition
"""
