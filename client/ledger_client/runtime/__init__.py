"""Host services for every process of ours, client or server.

files          durable writes, directory syncs, locks that end with their process
clock          the time of day in the unit that events use
backoff        how long to wait after failures in a row, or after a Retry-After
server         the event loop, the address and the stop signal of a server process
fault_list     the faults that a check finds, the first of them kept
trace_context  the trace that a request belongs to
forks          tells a process from the one that it was forked from
process_end    the end of a process with threads that are not of Python
sender_network the network by which an unknown sender is counted
signatures     the parameters of a function, on any Python
line_limit     a bound on the log lines that strangers cause
name_lookup    finds the addresses of other hosts, each on a thread of its own
"""
