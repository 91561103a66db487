"""Front ends: processes that answer requests, around one process that orders events.

    clients ── HTTP ──> front end ┐                       ┌> log/ (LMDB)
    clients ── HTTP ──> front end ┼── socket ── sequencer ┤
    clients ── HTTP ──> front end ┘                       └> published heads, witnesses
                          └──────── reads log/, access/, private/ ────────┘

Its modules in reading order:

messages        what front ends and the sequencer say to each other
link            one end of a socket between them
remote          the sequencer and its heads, as a front end has them
remote_reports  the reports of the other processes, as a front end has them
gateway         the sequencer's end
start           what a front end is given
front_end       the process of one
cores           how many a machine should have
pool            starts and stops them
app             serves with or without them
"""
