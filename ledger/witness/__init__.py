"""A witness: it cosigns the heads of other people's logs, each only if it extends the last.

directory   DIR: the keys, and the environment of logs and heads
service     what a request comes to: authenticated here, decided on the writer thread
app         HTTP
page        the page at /, for people
"""
