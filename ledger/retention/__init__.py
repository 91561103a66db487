"""Removes old entries for good, under a written policy and never against a legal hold.

policy       DIR/retention.toml: how long entries are kept, who decided so, what must have copies
legal_holds  DIR/legal-holds.json: what must not be removed, whatever the policy says
followers    how far sinks, alarms and archives have come, which must not lack what goes
planning     what the policy lets go today, counted, and what keeps the rest
decision     the event of a pruning, before anything is removed
removal      removes every byte of the entries from the ledger's folder
"""
