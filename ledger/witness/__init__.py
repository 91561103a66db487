"""A witness: it cosigns the tree heads of other people's logs, each only if it extends the last.

known_log  a log that it knows, and the row of it
rows       the rows of a log and of its head, verified at each read
store      the logs that it knows, and the head that it cosigned last for each
data_dir   its folder: the keys and the store
generation the marker that shows that an older copy of the store was put back
clock_guard signs nothing while the clock is far ahead
settings   flags and variables
log_lists  adds the logs of a list, from a file or an address
service    answers requests: authenticates here, decides on the writer thread
answers    the answers by path
app        HTTP
bastion_streams  the requests that come over a connection to a bastion, by HTTP/2
bastion    connections to bastions, by which logs reach a witness behind NAT
page       the page at /, for people
"""
