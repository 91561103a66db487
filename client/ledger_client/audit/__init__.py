"""The auditor's monitor: it follows a log from another host and raises an alarm.

recent_ids     the ids of the entries that were checked last
tree_replay    rebuilds the tree from the entries, bundle by bundle, and checks each entry
monitor        the rules: which heads and entries an honest log may show; no I/O
monitor_dir    what a monitor keeps on disk, and the evidence
copy_check     checks a SIEM's copy of the log line by line
monitor_loop   the clock, the sockets and the rounds around a monitor
"""
