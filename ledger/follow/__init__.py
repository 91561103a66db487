"""Followers: the processes that consume the log beside the service.

* `process`: starts one follower, restarts it after a failure, stops it; and the child's side
* `heartbeat`: the signs of life of a child, and how its parent listens for them
* `position`: where a follower is in the log, on the disk; and its state, for the service to read
* `entries`: reads the durable entries of a log in order, in batches
* `worker`: runs the child: its event loop, its log lines, and how it ends
* `tables`: the file of a kind of follower, a named table each
* `firings`: what alarms of a mirror have fired, in its outbox
* `followers`: the list of all followers

A follower reads the entries of the log in order and keeps its position itself, after the result is
kept or confirmed. So a kill at any moment repeats entries and loses none (at least once). It runs
at low priority in a process of its own, so it slows neither appends nor other followers. A new
follower is a module with a `main`, and a row in `followers.FOLLOWERS`.

The weak point: a follower is given paths, so it runs on the host of the log, or of a mirror.
"""
