"""A witness: it cosigns the tree heads of other people's logs, each only if it extends the last.

store      the logs that it knows, and the head that it cosigned last for each
data_dir   its folder: the keys and the store
service    answers requests: authenticates here, decides on the writer thread
app        HTTP
page       the page at /, for people
"""
